//! Topic patterns in a trie (`spec: semantics §3.1`).
//!
//! A pattern's words lead from node to node; `*` and `#` are edges of their own. A key walks all matching paths at
//! once: the set of nodes reached so far, each once, so that many `#` cost no more than the nodes they reach.

use std::collections::HashMap;

use crate::{
    binding::Destination,
    exchange::{Targets, add_target, remove_target},
};

type Children = HashMap<Box<[u8]>, usize, foldhash::fast::FixedState>;

const ROOT: usize = 0;

#[derive(Debug, Default)]
struct Node {
    words: Children,
    star: Option<usize>,
    hash: Option<usize>,
    /// Reached by a `#` edge: stays reached whatever word follows.
    loops: bool,
    targets: Targets,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.words.is_empty()
            && self.star.is_none()
            && self.hash.is_none()
            && self.targets.is_empty()
    }

    fn child(&self, word: &[u8]) -> Option<usize> {
        match word {
            b"*" => self.star,
            b"#" => self.hash,
            word => self.words.get(word).copied(),
        }
    }
}

/// The bindings of a topic exchange.
#[derive(Debug)]
pub(crate) struct TopicTrie {
    nodes: Vec<Node>,
    free: Vec<usize>,
}

impl Default for TopicTrie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
        }
    }
}

/// The empty key has no words; every other has one more than it has dots.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    key.split(|octet| *octet == b'.')
        .take(if key.is_empty() { 0 } else { usize::MAX })
}

impl TopicTrie {
    pub(crate) fn add(&mut self, pattern: &str, destination: &Destination) {
        let mut at = ROOT;
        for word in words(pattern.as_bytes()) {
            at = match self.nodes[at].child(word) {
                Some(child) => child,
                None => self.grow(at, word),
            };
        }
        add_target(&mut self.nodes[at].targets, destination);
    }

    fn grow(&mut self, parent: usize, word: &[u8]) -> usize {
        let node = Node {
            loops: word == b"#",
            ..Node::default()
        };
        let child = match self.free.pop() {
            Some(free) => {
                self.nodes[free] = node;
                free
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        let parent = &mut self.nodes[parent];
        match word {
            b"*" => parent.star = Some(child),
            b"#" => parent.hash = Some(child),
            word => {
                parent.words.insert(word.into(), child);
            }
        }
        child
    }

    pub(crate) fn remove(&mut self, pattern: &str, destination: &Destination) {
        let mut path = Vec::new();
        let mut at = ROOT;
        for word in words(pattern.as_bytes()) {
            let Some(child) = self.nodes[at].child(word) else {
                return;
            };
            path.push((at, word));
            at = child;
        }
        remove_target(&mut self.nodes[at].targets, destination);
        while let Some((parent, word)) = path.pop() {
            if !self.nodes[at].is_empty() {
                break;
            }
            self.nodes[at] = Node::default();
            self.free.push(at);
            let parent_node = &mut self.nodes[parent];
            match word {
                b"*" => parent_node.star = None,
                b"#" => parent_node.hash = None,
                word => {
                    parent_node.words.remove(word);
                }
            }
            at = parent;
        }
    }

    pub(crate) fn select(&self, key: &[u8], selected: &mut Vec<Destination>) {
        let (mut current, mut next) = (Vec::with_capacity(16), Vec::with_capacity(16));
        self.reach(ROOT, &mut current);
        for word in words(key) {
            next.clear();
            for &at in &current {
                let node = &self.nodes[at];
                if node.loops {
                    self.reach(at, &mut next);
                }
                // A literal `*` or `#` in a routing key is an ordinary word: it is never a key of `words`.
                if let Some(&child) = node.words.get(word) {
                    self.reach(child, &mut next);
                }
                if let Some(child) = node.star {
                    self.reach(child, &mut next);
                }
            }
            std::mem::swap(&mut current, &mut next);
            if current.is_empty() {
                return;
            }
        }
        for at in current {
            selected.extend(self.nodes[at].targets.keys().cloned());
        }
    }

    /// Adds a node, and the `#` nodes behind it, because `#` may match no word at all.
    fn reach(&self, at: usize, reached: &mut Vec<usize>) {
        let mut at = at;
        while !reached.contains(&at) {
            reached.push(at);
            match self.nodes[at].hash {
                Some(hash) => at = hash,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, key: &str, expected: bool) {
        let mut trie = TopicTrie::default();
        let queue = Destination::Queue("q".into());
        trie.add(pattern, &queue);
        let mut selected = Vec::new();
        trie.select(key.as_bytes(), &mut selected);
        assert_eq!(!selected.is_empty(), expected, "{pattern} against {key}");
        trie.remove(pattern, &queue);
        assert!(trie.nodes[ROOT].is_empty() && trie.free.len() + 1 == trie.nodes.len());
    }

    #[test]
    fn patterns_match_as_specified() {
        for key in ["", "a", "a.b", ".", "#", "*"] {
            check("#", key, true);
            check("#.#", key, true);
            check("#.#.#.#", key, true);
        }
        check("", "", true);
        check("", "a", false);
        check("*", "a", true);
        check("*", "", false);
        check("*", "a.b", false);
        check("*.*", "a.b", true);
        check("*.*", ".", true);
        check("*.*", "a.", true);
        check("*.*", "a", false);
        check("a.#", "a", true);
        check("a.#", "a.b.c", true);
        check("a.#", "ab", false);
        check("a.#", "", false);
        check("#.a", "a", true);
        check("#.a", "x.a", true);
        check("#.a", "a.x", false);
        check("a.*.c", "a.b.c", true);
        check("a.*.c", "a..c", true);
        check("a.*.c", "a.c", false);
        check("a.#.c", "a.c", true);
        check("a.#.c", "a.x.y.c", true);
        check("a.#.c", "a.c.d", false);
        check("a*", "a*", true);
        check("a*", "ab", false);
        check("*.#.b.#.*", "x.b.y", true);
        check("*.#.b.#.*", "b.y", false);
    }
}
