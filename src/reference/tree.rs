//! The definition of the tree. Knows nothing of states, and nothing of the order in which a device merges them.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Which neighbours are merged. The merge is not associative, so this is part of the model:
///
/// - an aligned block of `2n` positions merges its two halves of `n`; a block of one position is its leaf;
/// - write `t + 1` as a sum of powers of two, largest first: the prefix at `t` folds the aligned blocks of those
///   sizes from the left.
///
/// Nodes are numbered: the leaves are `0..leaves`, then come the merges, each after the two it reads. A merge that
/// several prefixes share is there once; one that no wanted prefix needs is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Number of leaves, `T`.
    pub leaves: usize,
    /// The two nodes, left and right, that node `leaves + m` merges.
    pub merges: Vec<(usize, usize)>,
    /// The node of the prefix at each wanted position, in the order asked for.
    pub outputs: Vec<usize>,
}

impl Tree {
    /// The tree over `leaves` positions, as much of it as the prefixes at `positions` need.
    ///
    /// # Errors
    /// [`Error::Argument`] if a position is not below `leaves`.
    pub fn new(leaves: usize, positions: &[usize]) -> Result<Self> {
        if let Some(t) = positions.iter().find(|&&t| t >= leaves) {
            return Err(Error::argument("positions", format!("below {leaves}"), t));
        }
        let mut tree = Builder { leaves, merges: vec![], known: HashMap::new() };
        let outputs = positions.iter().map(|&t| tree.prefix(t)).collect();
        Ok(Tree { leaves, merges: tree.merges, outputs })
    }
}

struct Builder {
    leaves: usize,
    merges: Vec<(usize, usize)>,
    known: HashMap<(usize, usize), usize>,
}

impl Builder {
    /// The prefix at `t`: its first `t + 1` positions.
    fn prefix(&mut self, t: usize) -> usize {
        let length = t + 1;
        let (mut folded, mut start) = (None, 0);
        for size in (0..usize::BITS).rev().map(|bit| 1 << bit).filter(|size| length & size != 0) {
            let block = self.block(start, size);
            folded = Some(match folded {
                None => block,
                Some(left) => self.merge(left, block),
            });
            start += size;
        }
        folded.expect("a prefix has a position")
    }

    /// The aligned block of `length` positions, a power of two, from `start`.
    fn block(&mut self, start: usize, length: usize) -> usize {
        if length == 1 {
            return start;
        }
        let half = length / 2;
        let (left, right) = (self.block(start, half), self.block(start + half, half));
        self.merge(left, right)
    }

    /// The merge of those two, made the first time that it is asked for.
    fn merge(&mut self, left: usize, right: usize) -> usize {
        *self.known.entry((left, right)).or_insert_with(|| {
            self.merges.push((left, right));
            self.leaves + self.merges.len() - 1
        })
    }
}
