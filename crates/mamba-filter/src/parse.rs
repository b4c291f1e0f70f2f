//! From text to a tree. Binding from loose to tight: OR, AND, NOT, comparisons, + and -, * and /, the sign.

use std::cmp::Ordering;

use crate::{
    expression::{Arithmetic, Comparison, Expression, Kind, Literal},
    like::{PATTERN_CHARS_MAX, Pattern, PatternError},
    property::Property,
    token::{Placed, Token, Unexpected, integer_too_large, tokens},
};

/// Octets of an expression's text.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Values, properties and headers named in an expression, those in IN lists included.
pub const TERMS_MAX: usize = 256;

/// Levels of parentheses, NOTs and signs.
pub const DEPTH_MAX: usize = 32;

/// Reads a whole expression.
pub(crate) fn parse(text: &str) -> Result<Expression, Unexpected> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Unexpected {
            at: (0..=TEXT_BYTES_MAX)
                .rfind(|at| text.is_char_boundary(*at))
                .unwrap_or(0),
            expected: format!("an expression of at most {TEXT_BYTES_MAX} bytes, ending"),
            found: Some("more"),
        });
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        terms: 0,
        depth: 0,
    };
    let at = parser.at();
    let expression = parser.any_of()?;
    if *parser.token() != Token::End {
        return Err(parser.unexpected("an operator or the end of the expression"));
    }
    demand(&expression, Kind::Condition, at)?;
    Ok(expression)
}

type Parsed = Result<Expression, Unexpected>;

/// `next` always names a token: the last is `End`, which is never passed.
struct Parser<'t> {
    tokens: Vec<Placed<'t>>,
    next: usize,
    terms: usize,
    depth: usize,
}

/// Fails when it is certain that the expression is not of that kind.
fn demand(expression: &Expression, kind: Kind, at: usize) -> Result<(), Unexpected> {
    let found = expression.kind();
    if found == kind || found == Kind::Any || kind == Kind::Any {
        return Ok(());
    }
    Err(Unexpected {
        at,
        expected: kind.words().to_owned(),
        found: Some(found.words()),
    })
}

impl<'t> Parser<'t> {
    fn token(&self) -> &Token<'t> {
        self.tokens
            .get(self.next)
            .map_or(&Token::End, |placed| &placed.token)
    }

    /// The octet where the next token begins.
    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(0, |placed| placed.from)
    }

    fn advance(&mut self) {
        if *self.token() != Token::End {
            self.next += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> Unexpected {
        Unexpected {
            at: self.at(),
            expected: expected.to_owned(),
            found: None,
        }
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let taken = matches!(self.token(), Token::Symbol(next) if *next == symbol);
        if taken {
            self.advance();
        }
        taken
    }

    fn take_word(&mut self, word: &str) -> bool {
        let taken = matches!(self.token(), Token::Word(next) if next.eq_ignore_ascii_case(word));
        if taken {
            self.advance();
        }
        taken
    }

    fn need_symbol(&mut self, symbol: &str) -> Result<(), Unexpected> {
        if self.take_symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("'{symbol}'")))
        }
    }

    fn need_word(&mut self, word: &str) -> Result<(), Unexpected> {
        if self.take_word(word) {
            Ok(())
        } else {
            Err(self.unexpected(word))
        }
    }

    fn need_text(&mut self, what: &str) -> Result<String, Unexpected> {
        if let Token::Text(text) = self.token() {
            let text = text.clone();
            self.advance();
            Ok(text)
        } else {
            Err(self.unexpected(what))
        }
    }

    fn count_term(&mut self) -> Result<(), Unexpected> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(Unexpected {
                at: self.at(),
                expected: format!("no more than {TERMS_MAX} values, ending"),
                found: Some("another"),
            });
        }
        Ok(())
    }

    /// Runs `inner` one level deeper.
    fn deeper(&mut self, inner: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth == DEPTH_MAX {
            return Err(Unexpected {
                at: self.at(),
                expected: format!("no more than {DEPTH_MAX} levels of nesting, ending"),
                found: Some("another"),
            });
        }
        self.depth += 1;
        let parsed = inner(self);
        self.depth -= 1;
        parsed
    }

    /// Conditions joined by OR.
    fn any_of(&mut self) -> Parsed {
        let at = self.at();
        let first = self.all_of()?;
        if !matches!(self.token(), Token::Word(word) if word.eq_ignore_ascii_case("OR")) {
            return Ok(first);
        }
        demand(&first, Kind::Condition, at)?;
        let mut any = Vec::new();
        let mut next = first;
        loop {
            match next {
                Expression::Or(inner) => any.extend(inner),
                other => any.push(other),
            }
            if !self.take_word("OR") {
                return Ok(Expression::Or(any));
            }
            let at = self.at();
            next = self.all_of()?;
            demand(&next, Kind::Condition, at)?;
        }
    }

    /// Conditions joined by AND.
    fn all_of(&mut self) -> Parsed {
        let at = self.at();
        let first = self.denial()?;
        if !matches!(self.token(), Token::Word(word) if word.eq_ignore_ascii_case("AND")) {
            return Ok(first);
        }
        demand(&first, Kind::Condition, at)?;
        let mut all = Vec::new();
        let mut next = first;
        loop {
            match next {
                Expression::And(inner) => all.extend(inner),
                other => all.push(other),
            }
            if !self.take_word("AND") {
                return Ok(Expression::And(all));
            }
            let at = self.at();
            next = self.denial()?;
            demand(&next, Kind::Condition, at)?;
        }
    }

    fn denial(&mut self) -> Parsed {
        if !self.take_word("NOT") {
            return self.predicate();
        }
        let at = self.at();
        let inner = self.deeper(Self::denial)?;
        demand(&inner, Kind::Condition, at)?;
        Ok(Expression::Not(Box::new(inner)))
    }

    /// A value, perhaps compared with something.
    fn predicate(&mut self) -> Parsed {
        let at = self.at();
        let value = self.sum()?;
        for operator in [
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::LessOrEqual,
            Comparison::GreaterOrEqual,
            Comparison::Less,
            Comparison::Greater,
        ] {
            if self.take_symbol(operator.symbol())
                || operator == Comparison::NotEqual && self.take_symbol("!=")
            {
                let right = self.operand(value.kind())?;
                return Ok(Expression::Compare(
                    operator,
                    Box::new(value),
                    Box::new(right),
                ));
            }
        }
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            self.need_word("NULL")?;
            return Ok(Expression::IsNull {
                value: Box::new(value),
                negated,
            });
        }
        let negated = self.take_word("NOT");
        if self.take_word("LIKE") {
            demand(&value, Kind::Text, at)?;
            return self.like(value, negated);
        }
        if self.take_word("IN") {
            return self.list(value, negated);
        }
        if self.take_word("BETWEEN") {
            let low = self.operand(value.kind())?;
            self.need_word("AND")?;
            let kind = if value.kind() == Kind::Any {
                low.kind()
            } else {
                value.kind()
            };
            let high = self.operand(kind)?;
            return Ok(Expression::Between {
                value: Box::new(value),
                negated,
                low: Box::new(low),
                high: Box::new(high),
            });
        }
        if negated {
            return Err(self.unexpected("LIKE, IN or BETWEEN"));
        }
        Ok(value)
    }

    fn operand(&mut self, kind: Kind) -> Parsed {
        let at = self.at();
        let operand = self.sum()?;
        demand(&operand, kind, at)?;
        Ok(operand)
    }

    fn like(&mut self, value: Expression, negated: bool) -> Parsed {
        let at = self.at();
        let text = self.need_text("a pattern in quotes")?;
        let mut escape = None;
        if self.take_word("ESCAPE") {
            let at = self.at();
            let escape_text = self.need_text("one character in quotes")?;
            let mut characters = escape_text.chars();
            escape = characters.next();
            if escape.is_none() || characters.next().is_some() {
                return Err(Unexpected {
                    at,
                    expected: "one character in quotes".to_owned(),
                    found: None,
                });
            }
        }
        let pattern = Pattern::parse(&text, escape).map_err(|error| match error {
            PatternError::TooLong => Unexpected {
                at,
                expected: format!("a pattern of at most {PATTERN_CHARS_MAX} characters"),
                found: Some("a longer one"),
            },
            PatternError::Escape => Unexpected {
                at,
                expected: "a pattern whose escape character precedes '%', '_' or itself".to_owned(),
                found: None,
            },
        })?;
        Ok(Expression::Like {
            value: Box::new(value),
            negated,
            text,
            escape,
            pattern: Box::new(pattern),
        })
    }

    /// The values of an IN, all of one kind.
    fn list(&mut self, value: Expression, negated: bool) -> Parsed {
        self.need_symbol("(")?;
        let mut kind = value.kind();
        let mut list = Vec::new();
        loop {
            let at = self.at();
            let item = self.signed()?;
            demand(&item, kind, at)?;
            let Expression::Literal(literal) = item else {
                return Err(Unexpected {
                    at,
                    expected: "a number, a string, TRUE or FALSE".to_owned(),
                    found: Some("something to compute"),
                });
            };
            if literal == Literal::Null {
                return Err(Unexpected {
                    at,
                    expected: "a value that can be equal to something (use IS NULL)".to_owned(),
                    found: Some("NULL"),
                });
            }
            kind = literal.kind();
            list.push(literal);
            if !self.take_symbol(",") {
                break;
            }
        }
        self.need_symbol(")")?;
        let order = |left: &Literal, right: &Literal| {
            left.value()
                .zip(right.value())
                .and_then(|(left, right)| left.compare(right))
                .unwrap_or(Ordering::Equal)
        };
        // Of 1 and 1.0 the one with the shorter text stays.
        list.sort_by(|left, right| {
            order(left, right).then_with(|| left.to_string().cmp(&right.to_string()))
        });
        list.dedup_by(|later, earlier| order(later, earlier) == Ordering::Equal);
        Ok(Expression::In {
            value: Box::new(value),
            negated,
            list,
        })
    }

    fn sum(&mut self) -> Parsed {
        let at = self.at();
        let mut left = self.product()?;
        loop {
            let operator = if self.take_symbol("+") {
                Arithmetic::Add
            } else if self.take_symbol("-") {
                Arithmetic::Subtract
            } else {
                return Ok(left);
            };
            demand(&left, Kind::Number, at)?;
            let at = self.at();
            let right = self.product()?;
            demand(&right, Kind::Number, at)?;
            left = Expression::Arithmetic(operator, Box::new(left), Box::new(right));
        }
    }

    fn product(&mut self) -> Parsed {
        let at = self.at();
        let mut left = self.signed()?;
        loop {
            let operator = if self.take_symbol("*") {
                Arithmetic::Multiply
            } else if self.take_symbol("/") {
                Arithmetic::Divide
            } else {
                return Ok(left);
            };
            demand(&left, Kind::Number, at)?;
            let at = self.at();
            let right = self.signed()?;
            demand(&right, Kind::Number, at)?;
            left = Expression::Arithmetic(operator, Box::new(left), Box::new(right));
        }
    }

    fn signed(&mut self) -> Parsed {
        let minus = self.take_symbol("-");
        if !minus && !self.take_symbol("+") {
            return self.single();
        }
        if minus && let Token::Integer(magnitude) = self.token() {
            if let Some(number) = 0_i64.checked_sub_unsigned(*magnitude) {
                self.count_term()?;
                self.advance();
                return Ok(Expression::Literal(Literal::Integer(number)));
            }
            return Err(integer_too_large(self.at()));
        }
        let at = self.at();
        let inner = self.deeper(Self::signed)?;
        demand(&inner, Kind::Number, at)?;
        if !minus {
            return Ok(inner);
        }
        Ok(match inner {
            Expression::Literal(Literal::Integer(number)) if number != i64::MIN => {
                Expression::Literal(Literal::Integer(-number))
            }
            Expression::Literal(Literal::Decimal(number)) => {
                Expression::Literal(Literal::Decimal(-number))
            }
            other => Expression::Negate(Box::new(other)),
        })
    }

    fn single(&mut self) -> Parsed {
        if self.take_symbol("(") {
            let inner = self.deeper(Self::any_of)?;
            self.need_symbol(")")?;
            return Ok(inner);
        }
        let literal = match self.token() {
            Token::Integer(number) => {
                Literal::Integer(i64::try_from(*number).map_err(|_| integer_too_large(self.at()))?)
            }
            Token::Decimal(number) => Literal::Decimal(*number),
            Token::Text(text) => Literal::Text(text.clone()),
            Token::Word(word) => {
                let word = *word;
                return self.word(word);
            }
            Token::Symbol(_) | Token::End => return Err(self.unexpected("a value")),
        };
        self.count_term()?;
        self.advance();
        Ok(Expression::Literal(literal))
    }

    /// A word where a value belongs.
    fn word(&mut self, word: &str) -> Parsed {
        let keyword = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        let expression = if keyword("TRUE") {
            Expression::Literal(Literal::Boolean(true))
        } else if keyword("FALSE") {
            Expression::Literal(Literal::Boolean(false))
        } else if keyword("NULL") {
            Expression::Literal(Literal::Null)
        } else if word == "headers" {
            self.count_term()?;
            self.advance();
            return self.header();
        } else if let Some(property) = Property::ALL
            .into_iter()
            .find(|property| property.name() == word)
        {
            Expression::Property(property)
        } else if ["AND", "OR", "IN", "LIKE", "ESCAPE", "BETWEEN", "IS", "NOT"]
            .into_iter()
            .any(keyword)
        {
            return Err(self.unexpected("a value"));
        } else {
            return Err(self.unexpected("a value, a property such as priority, or headers['NAME']"));
        };
        self.count_term()?;
        self.advance();
        Ok(expression)
    }

    fn header(&mut self) -> Parsed {
        if self.take_symbol(".") {
            if let Token::Word(name) = self.token() {
                let name = (*name).to_owned();
                self.advance();
                return Ok(Expression::Header(name));
            }
            return Err(self.unexpected("a header's name (others than words: headers['NAME'])"));
        }
        if self.take_symbol("[") {
            let name = self.need_text("a header's name in quotes")?;
            self.need_symbol("]")?;
            return Ok(Expression::Header(name));
        }
        Err(self.unexpected("'.' or '[' and a header's name"))
    }
}
