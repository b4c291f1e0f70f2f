//! Topic bindings as a trie over words (`spec: semantics §3.1`).
//!
//! ```text
//! root ─stock─> n ─*─> n ─ibm─> [queues]      "stock.*.ibm"
//!            └──#─> n [queues]                "stock.#"
//! ```
//!
//! A match walks all nodes a prefix of the routing key can stand on, word by word. A `#` node, once
//! reached, stays reached, so it is kept in a set of its own; every other node has one way in and cannot be
//! reached twice by the same word. The work is therefore at most (words) × (nodes), whatever the number of
//! `#` in a binding.

use std::collections::HashMap;

use crate::route::{Scratch, Target};
use crate::slots::Slots;

/// `#` words a binding key may have. The matcher's cost grows only linearly with them, so this merely keeps
/// absurd keys out; the reference has 2 in its newest version and no limit before.
pub const TOPIC_HASH_WORDS_MAX: usize = 16;

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// The destinations of one key or node; most have one.
#[derive(Debug, Default)]
pub(crate) enum Targets {
    #[default]
    None,
    One(Target),
    Many(Vec<Target>),
}

impl Targets {
    pub(crate) fn insert(&mut self, target: Target) {
        match self {
            Self::None => *self = Self::One(target),
            Self::One(first) => *self = Self::Many(vec![*first, target]),
            Self::Many(targets) => targets.push(target),
        }
    }

    /// Takes one of possibly several occurrences out.
    pub(crate) fn remove(&mut self, target: Target) {
        match self {
            Self::None => {}
            Self::One(only) => {
                if *only == target {
                    *self = Self::None;
                }
            }
            Self::Many(targets) => {
                if let Some(at) = targets.iter().rposition(|other| *other == target) {
                    targets.swap_remove(at);
                }
                if let [only] = targets.as_slice() {
                    *self = Self::One(*only);
                } else if targets.len() < targets.capacity() / 4 {
                    targets.shrink_to_fit();
                }
            }
        }
    }

    pub(crate) fn as_slice(&self) -> &[Target] {
        match self {
            Self::None => &[],
            Self::One(target) => std::slice::from_ref(target),
            Self::Many(targets) => targets,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Root,
    Word(u32),
    Star,
    Hash,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    edge: Edge,
    /// Children by literal word; the edges themselves are in [`Trie::edges`].
    words: u32,
    star: u32,
    hash: u32,
    targets: Targets,
}

impl Node {
    const fn new(parent: u32, edge: Edge) -> Self {
        Self {
            parent,
            edge,
            words: 0,
            star: NONE,
            hash: NONE,
            targets: Targets::None,
        }
    }

    fn is_bare(&self) -> bool {
        self.words == 0
            && self.star == NONE
            && self.hash == NONE
            && self.targets.as_slice().is_empty()
    }
}

/// All bindings of one topic exchange.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Slots<Node>,
    /// Words of all binding keys, numbered, so that a routing key's word is hashed once per match and
    /// not once per node.
    words: HashMap<Box<[u8]>, Word, foldhash::fast::FixedState>,
    free_words: Vec<u32>,
    words_ever: u32,
    /// (node, word) to child.
    edges: HashMap<(u32, u32), u32, foldhash::fast::FixedState>,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    id: u32,
    /// Edges that carry it.
    uses: u32,
}

/// The words of a key: none in the empty key, otherwise one more than there are dots.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = key.is_empty();
    key.split(|octet| *octet == b'.').filter(move |_| !empty)
}

/// `#` words of a binding key.
pub(crate) fn hash_words(key: &str) -> usize {
    words(key.as_bytes()).filter(|word| *word == b"#").count()
}

impl Trie {
    pub(crate) fn new() -> Self {
        let mut nodes = Slots::new();
        nodes.insert(Node::new(NONE, Edge::Root));
        Self {
            nodes,
            words: HashMap::default(),
            free_words: Vec::new(),
            words_ever: 0,
            edges: HashMap::default(),
        }
    }

    pub(crate) fn insert(&mut self, key: &str, target: Target) {
        let mut node = ROOT;
        for word in words(key.as_bytes()) {
            node = match word {
                b"*" => match self.nodes[node].star {
                    NONE => {
                        let child = self.nodes.insert(Node::new(node, Edge::Star));
                        self.nodes[node].star = child;
                        child
                    }
                    child => child,
                },
                b"#" => match self.nodes[node].hash {
                    NONE => {
                        let child = self.nodes.insert(Node::new(node, Edge::Hash));
                        self.nodes[node].hash = child;
                        child
                    }
                    child => child,
                },
                word => self.word_child(node, word),
            };
        }
        self.nodes[node].targets.insert(target);
    }

    fn word_child(&mut self, node: u32, word: &[u8]) -> u32 {
        let id = match self.words.get(word) {
            Some(word) => word.id,
            None => {
                let id = self.free_words.pop().unwrap_or_else(|| {
                    self.words_ever += 1;
                    self.words_ever - 1
                });
                self.words.insert(word.into(), Word { id, uses: 0 });
                id
            }
        };
        if let Some(child) = self.edges.get(&(node, id)) {
            return *child;
        }
        let child = self.nodes.insert(Node::new(node, Edge::Word(id)));
        self.edges.insert((node, id), child);
        self.nodes[node].words += 1;
        if let Some(word) = self.words.get_mut(word) {
            word.uses += 1;
        }
        child
    }

    pub(crate) fn remove(&mut self, key: &str, target: Target) {
        let mut node = ROOT;
        for word in words(key.as_bytes()) {
            let child = match word {
                b"*" => self.nodes[node].star,
                b"#" => self.nodes[node].hash,
                word => self
                    .words
                    .get(word)
                    .and_then(|word| self.edges.get(&(node, word.id)))
                    .copied()
                    .unwrap_or(NONE),
            };
            if child == NONE {
                return;
            }
            node = child;
        }
        self.nodes[node].targets.remove(target);
        let mut path = words(key.as_bytes()).collect::<Vec<_>>();
        while node != ROOT && self.nodes[node].is_bare() {
            let Node { parent, edge, .. } = *self.nodes.get(node).expect("the walk found it");
            self.nodes.remove(node);
            let word = path.pop();
            match edge {
                Edge::Root => {}
                Edge::Star => self.nodes[parent].star = NONE,
                Edge::Hash => self.nodes[parent].hash = NONE,
                Edge::Word(id) => {
                    self.edges.remove(&(parent, id));
                    self.nodes[parent].words -= 1;
                    self.release_word(word.unwrap_or_default());
                }
            }
            node = parent;
        }
        self.shrink();
    }

    fn release_word(&mut self, word: &[u8]) {
        if let Some(entry) = self.words.get_mut(word) {
            entry.uses -= 1;
            if entry.uses == 0 {
                self.free_words.push(entry.id);
                self.words.remove(word);
            }
        }
    }

    /// Gives memory back when most of it is unused.
    fn shrink(&mut self) {
        if self.nodes.len() == 1 && self.nodes[ROOT].is_bare() {
            *self = Self::new();
            return;
        }
        if self.edges.capacity() > 64 && self.edges.len() < self.edges.capacity() / 8 {
            self.edges.shrink_to_fit();
        }
        if self.words.capacity() > 64 && self.words.len() < self.words.capacity() / 8 {
            self.words.shrink_to_fit();
        }
    }

    /// Selects the destinations of all bindings that match `key`.
    pub(crate) fn select(&self, key: &[u8], scratch: &mut Scratch) {
        let mut topic = std::mem::take(&mut scratch.topic);
        topic.current.clear();
        topic.hashes.clear();
        let enter = |node: u32, into: &mut Vec<u32>, hashes: &mut crate::route::SmallSet| {
            into.push(node);
            // `#` may match no word at all: whoever stands on a node stands on its `#` child too.
            let mut hash = self.nodes[node].hash;
            while hash != NONE && hashes.insert(hash) {
                hash = self.nodes[hash].hash;
            }
        };
        enter(ROOT, &mut topic.current, &mut topic.hashes);
        for word in words(key) {
            if topic.current.is_empty() && topic.hashes.len() == 0 {
                break;
            }
            let id = self.words.get(word).map(|word| word.id);
            topic.next.clear();
            // Those reached by this word take part from the next word on.
            let reached = topic.hashes.len();
            for at in 0..topic.current.len() + reached {
                let node = match topic.current.get(at) {
                    Some(node) => *node,
                    None => match topic.hashes.at(at - topic.current.len()) {
                        Some(node) => node,
                        None => break,
                    },
                };
                let Node { words, star, .. } = self.nodes[node];
                if words > 0
                    && let Some(id) = id
                    && let Some(child) = self.edges.get(&(node, id))
                {
                    enter(*child, &mut topic.next, &mut topic.hashes);
                }
                if star != NONE {
                    enter(star, &mut topic.next, &mut topic.hashes);
                }
            }
            std::mem::swap(&mut topic.current, &mut topic.next);
        }
        for node in &topic.current {
            self.emit(*node, scratch);
        }
        let mut at = 0;
        while let Some(node) = topic.hashes.at(at) {
            self.emit(node, scratch);
            at += 1;
        }
        scratch.topic = topic;
    }

    fn emit(&self, node: u32, scratch: &mut Scratch) {
        for target in self.nodes[node].targets.as_slice() {
            scratch.select(*target);
        }
    }

    /// # Panics
    /// When the trie contradicts itself.
    pub(crate) fn check_invariants(&self, bindings: usize) {
        let mut edges = 0;
        let mut targets = 0;
        for (slot, node) in self.nodes.iter() {
            targets += node.targets.as_slice().len();
            edges += node.words as usize;
            if slot == ROOT {
                assert_eq!(node.edge, Edge::Root);
                continue;
            }
            assert!(!node.is_bare(), "node {slot} leads nowhere");
            let parent = &self.nodes[node.parent];
            let back = match node.edge {
                Edge::Root => NONE,
                Edge::Star => parent.star,
                Edge::Hash => parent.hash,
                Edge::Word(id) => self.edges[&(node.parent, id)],
            };
            assert_eq!(back, slot, "a parent knows its child");
        }
        assert_eq!(edges, self.edges.len());
        assert_eq!(targets, bindings);
        let uses: usize = self.words.values().map(|word| word.uses as usize).sum();
        assert_eq!(uses, edges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(binding_key: &str, routing_key: &str, expected: bool) {
        let mut trie = Trie::new();
        trie.insert(binding_key, Target::Queue(7));
        trie.check_invariants(1);
        let mut scratch = Scratch::default();
        trie.select(routing_key.as_bytes(), &mut scratch);
        let found = scratch.queues == [7];
        assert_eq!(found, expected, "{binding_key} against {routing_key:?}");
        trie.remove(binding_key, Target::Queue(7));
        trie.check_invariants(0);
        assert_eq!(
            (trie.nodes.len(), trie.words.len(), trie.edges.capacity()),
            (1, 0, 0),
            "memory is freed"
        );
    }

    #[test]
    fn words_and_wildcards() {
        check("#", "", true);
        check("#", "a.b.c", true);
        check("#", ".", true);
        check("", "", true);
        check("", "a", false);
        check("", ".", false);
        check("*", "a", true);
        check("*", "", false);
        check("*", "a.b", false);
        check("*.*", "a.b", true);
        check("*.*", ".", true);
        check("*.*", "a.", true);
        check("*.*", "a", false);
        check("a.#", "a", true);
        check("a.#", "a.b", true);
        check("a.#", "a.b.c", true);
        check("a.#", "ab", false);
        check("a.#", "", false);
        check("#.a", "a", true);
        check("#.a", "x.a", true);
        check("#.a", "a.a", true);
        check("#.a", "a.x", false);
        check("a.*.c", "a.b.c", true);
        check("a.*.c", "a..c", true);
        check("a.*.c", "a.c", false);
        check("#.#", "", true);
        check("#.#", "a.b", true);
        check("a.#.c", "a.c", true);
        check("a.#.c", "a.x.y.c", true);
        check("a.#.c", "a.c.d", false);
        check("*.#", "", false);
        check("*.#", "a", true);
        check("#.*", "a", true);
        check("#.*", "", false);
        check("#.*.#.*", "a", false);
        check("#.*.#.*", "a.b", true);
        check("#.a.#.b.#.c.#", "x.a.y.b.b.c", true);
        check("#.a.#.b.#.c.#", "x.c.y.b.b.a", false);
    }

    #[test]
    fn literal_words() {
        check("a*", "a*", true);
        check("a*", "ab", false);
        check("a#.b", "a#.b", true);
        check("a#.b", "a.b", false);
        check("*", "*", true);
        check("*", "#", true);
        check("a", "A", false);
        check("a.", "a.", true);
        check("a.", "a", false);
        check("a.", "a.b", false);
        check("..", "..", true);
        check("..", ".", false);
    }

    #[test]
    fn a_routing_key_need_not_be_utf8() {
        let mut trie = Trie::new();
        trie.insert("*.a", Target::Queue(1));
        let mut scratch = Scratch::default();
        trie.select(b"\xff\xfe.a", &mut scratch);
        assert_eq!(scratch.queues, [1]);
    }

    #[test]
    fn many_hashes_stay_cheap() {
        let mut trie = Trie::new();
        let key = vec!["#.a"; TOPIC_HASH_WORDS_MAX].join(".") + ".b";
        trie.insert(&key, Target::Queue(1));
        let mut scratch = Scratch::default();
        // Exponential matching would not end.
        trie.select([b"a".as_slice(); 128].join(&b'.').as_slice(), &mut scratch);
        assert_eq!(scratch.queues, [0u32; 0]);
    }
}
