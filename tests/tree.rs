//! The planner against the definition of the tree: schedules are run on symbols. A slot holds the tree that was merged
//! into it, or poison; every output must hold the tree that the definition gives.

use std::collections::{HashMap, HashSet};

use pr_lstm::Error;
use pr_lstm::tree::{Counter, Outputs, Planner, Readers, Rows, Schedule, Slots};
use proptest::prelude::*;

/// A tree: equal numbers are equal trees.
type Tree = usize;

#[derive(Default)]
struct Forest {
    /// The parts of each tree; none for a leaf.
    parts: Vec<Option<[Tree; 2]>>,
    known: HashMap<[Tree; 2], Tree>,
}

impl Forest {
    fn leaf(&mut self) -> Tree {
        self.parts.push(None);
        self.parts.len() - 1
    }

    fn merge(&mut self, left: Tree, right: Tree) -> Tree {
        *self.known.entry([left, right]).or_insert_with(|| {
            self.parts.push(Some([left, right]));
            self.parts.len() - 1
        })
    }

    /// The definition: an aligned block merges its halves.
    fn block(&mut self, leaves: &[Tree]) -> Tree {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len() / 2);
                let (left, right) = (self.block(left), self.block(right));
                self.merge(left, right)
            }
        }
    }

    /// The definition: the prefix folds the blocks of its length's bits, largest first. For each of them the block,
    /// and the prefix through it.
    fn fold(&mut self, mut leaves: &[Tree]) -> Vec<[Tree; 2]> {
        let mut folded: Vec<[Tree; 2]> = Vec::new();
        while !leaves.is_empty() {
            let (block, rest) = leaves.split_at(1 << leaves.len().ilog2());
            let block = self.block(block);
            let prefix = folded.last().map_or(block, |&[_, prefix]| self.merge(prefix, block));
            folded.push([block, prefix]);
            leaves = rest;
        }
        folded
    }

    fn prefix(&mut self, leaves: &[Tree]) -> Tree {
        self.fold(leaves).last().expect("a prefix has a token")[1]
    }

    /// What a counter of these leaves holds, in the order of [`Counter::slots`].
    fn held(&mut self, leaves: &[Tree]) -> Vec<Tree> {
        let folded = self.fold(leaves);
        folded.into_iter().flatten().enumerate().filter(|(i, _)| *i != 1).map(|(_, tree)| tree).collect()
    }

    /// Everything that these trees are merged from, themselves included, but what is there already.
    fn merges_of(&self, wanted: impl IntoIterator<Item = Tree>, there: &HashSet<Tree>) -> HashSet<Tree> {
        let mut merges = HashSet::new();
        let mut waiting: Vec<Tree> = wanted.into_iter().collect();
        while let Some(tree) = waiting.pop() {
            if let Some(parts) = self.parts[tree]
                && !there.contains(&tree)
                && merges.insert(tree)
            {
                waiting.extend(parts);
            }
        }
        merges
    }

    /// The last leaf of a tree.
    fn end(&self, mut tree: Tree) -> Tree {
        while let Some([_, right]) = self.parts[tree] {
            tree = right;
        }
        tree
    }
}

/// Runs a schedule on slots; returns the step after which each tree was there, 0 for those that it did not merge.
///
/// Leaves are numbered by sequence, then by position, so that the order of a step is that of the last leaves.
fn run(
    schedule: &Schedule,
    forest: &mut Forest,
    slots: &mut [Option<Tree>],
    leaves: &[Tree],
) -> HashMap<Tree, usize> {
    let mut ready: HashMap<Tree, usize> = slots.iter().flatten().map(|&tree| (tree, 0)).collect();
    assert_eq!(schedule.leaves().len(), leaves.len());
    assert_eq!(
        schedule.leaves().iter().collect::<HashSet<_>>().len(),
        leaves.len(),
        "two leaves in one slot"
    );
    for (&slot, &leaf) in schedule.leaves().iter().zip(leaves) {
        slots[slot as usize] = Some(leaf);
        ready.insert(leaf, 0);
    }
    let mut first = 0;
    assert_eq!(schedule.steps().len(), schedule.step_ends().len());
    for ((number, step), &end) in (1..).zip(schedule.steps()).zip(schedule.step_ends()) {
        assert_eq!((step.first, step.first + step.out.len()), (first, end as usize));
        assert!(
            !step.out.is_empty() && step.left.len() == step.out.len() && step.right.len() == step.out.len()
        );
        assert_eq!(step.out, &schedule.out()[first..end as usize]);
        assert_eq!(step.left, &schedule.left()[first..end as usize]);
        assert_eq!(step.right, &schedule.right()[first..end as usize]);
        first = end as usize;
        let reads: HashSet<u32> = step.left.iter().chain(step.right).copied().collect();
        let writes: HashSet<u32> = step.out.iter().copied().collect();
        assert_eq!(writes.len(), step.out.len(), "step {number} writes a slot twice");
        assert!(reads.is_disjoint(&writes), "step {number} writes a slot that it reads");
        let read = |slot: u32| {
            slots[slot as usize].unwrap_or_else(|| panic!("step {number} reads poison in {slot}"))
        };
        let trees: Vec<Tree> = step
            .left
            .iter()
            .zip(step.right)
            .map(|(&left, &right)| {
                let parts = [read(left), read(right)];
                let tree = forest.merge(parts[0], parts[1]);
                let soonest = 1 + parts.iter().map(|part| ready[part]).max().unwrap_or(0);
                assert_eq!(soonest, number, "a merge of step {number} could run in step {soonest}");
                assert!(ready.insert(tree, number).is_none(), "step {number} merges again what was there");
                tree
            })
            .collect();
        let ends: Vec<Tree> = trees.iter().map(|&tree| forest.end(tree)).collect();
        assert!(ends.is_sorted_by(|a, b| a < b), "step {number} is not sorted by sequence and position");
        for (&slot, tree) in step.out.iter().zip(trees) {
            slots[slot as usize] = Some(tree);
        }
    }
    assert_eq!(first, schedule.merges());
    ready
}

fn merged(ready: &HashMap<Tree, usize>) -> HashSet<Tree> {
    ready.iter().filter(|(_, step)| **step > 0).map(|(&tree, _)| tree).collect()
}

/// The most trees that are written, read or yet to be read in one step.
fn most_alive(forest: &Forest, ready: &HashMap<Tree, usize>, outputs: &[Tree]) -> usize {
    let mut last = ready.clone();
    for (&tree, &step) in ready {
        for part in forest.parts[tree].into_iter().flatten() {
            last.entry(part).and_modify(|last| *last = step.max(*last));
        }
    }
    let steps = ready.values().copied().max().unwrap_or(0);
    last.extend(outputs.iter().map(|&output| (output, steps)));
    let alive = |step| ready.iter().filter(|(tree, from)| **from <= step && step <= last[tree]).count();
    (0..=steps).map(alive).max().unwrap_or(0)
}

/// Checks a schedule of whole sequences.
fn check_whole(schedule: &Schedule, lengths: &[usize], outputs: &Outputs, rows: Rows) {
    let mut forest = Forest::default();
    let sequences: Vec<Vec<Tree>> =
        lengths.iter().map(|&length| (0..length).map(|_| forest.leaf()).collect()).collect();
    let mut slots = vec![None; schedule.slots()];
    let ready = run(schedule, &mut forest, &mut slots, &sequences.concat());
    let mut wanted = Vec::new();
    for leaves in &sequences {
        let time = leaves.len();
        let positions: Vec<usize> = match outputs {
            Outputs::All => (0..time).collect(),
            Outputs::Last => vec![time - 1],
            Outputs::LastN(n) => (time - n..time).collect(),
            Outputs::At(positions) => positions.clone(),
            other => panic!("no test for {other:?}"),
        };
        assert_eq!(outputs.count(time), positions.len());
        assert!((0..positions.len()).map(|j| outputs.position(time, j)).eq(positions.iter().copied()));
        wanted.extend(positions.iter().map(|&t| forest.prefix(&leaves[..=t])));
    }
    let found: Vec<Option<Tree>> = schedule.outputs().iter().map(|&slot| slots[slot as usize]).collect();
    assert_eq!(found, wanted.iter().map(|&tree| Some(tree)).collect::<Vec<_>>());
    assert_eq!(merged(&ready), forest.merges_of(wanted.iter().copied(), &HashSet::new()));
    let used = schedule.leaves().iter().chain(schedule.out());
    assert_eq!(used.clone().max().map(|&slot| slot as usize + 1), Some(schedule.slots()));
    if rows == Rows::Keep {
        assert!(used.copied().eq(0..schedule.slots() as u32));
        check_readers(schedule);
    } else {
        assert_eq!(schedule.slots(), most_alive(&forest, &ready, &wanted));
    }
}

fn check_readers(schedule: &Schedule) {
    let mut expected = vec![Vec::new(); schedule.slots()];
    for (merge, (&left, &right)) in (0..).zip(schedule.left().iter().zip(schedule.right())) {
        expected[left as usize].push(2 * merge);
        expected[right as usize].push(2 * merge + 1);
    }
    let mut readers = Readers::default();
    // A second time over what the first has left.
    for _ in 0..2 {
        readers.fill(schedule);
        for (slot, expected) in expected.iter().enumerate() {
            assert_eq!(readers.of_slot(slot), expected);
        }
    }
}

fn padded(batch: usize, time: usize, outputs: &Outputs, rows: Rows) -> Schedule {
    let mut schedule = Schedule::default();
    Planner::new().padded(&mut schedule, batch, time, outputs, rows).expect("a pass");
    schedule
}

fn widths(schedule: &Schedule) -> Vec<usize> {
    schedule.steps().map(|step| step.out.len()).collect()
}

#[test]
fn steps_are_as_wide_as_the_design_says() {
    for rows in [Rows::Reuse, Rows::Keep] {
        let all = padded(3, 40, &Outputs::All, rows);
        assert_eq!((widths(&all), all.merges()), (vec![20, 11, 7, 6, 8, 11, 7, 2], 72));
        let last = padded(3, 40, &Outputs::Last, rows);
        assert_eq!((widths(&last), last.merges()), (vec![20, 10, 5, 2, 1, 1], 39));
        let all = padded(1, 500, &Outputs::All, rows);
        assert_eq!(widths(&all), [250, 126, 64, 35, 22, 19, 23, 34, 54, 79, 97, 92, 62, 24, 4]);
        assert_eq!((all.merges(), padded(1, 500, &Outputs::Last, rows).merges()), (985, 499));
    }
}

#[test]
fn every_length_is_the_tree() {
    let (mut planner, mut schedule) = (Planner::new(), Schedule::default());
    for time in 1..=300 {
        for outputs in [Outputs::All, Outputs::Last] {
            for rows in [Rows::Reuse, Rows::Keep] {
                planner.padded(&mut schedule, 2, time, &outputs, rows).expect("a pass");
                assert_eq!(schedule.width(), 2);
                check_whole(&schedule, &[time], &outputs, rows);
            }
        }
    }
}

#[test]
fn no_shorter_sequence_wants_more_slots() {
    let (mut planner, mut schedule) = (Planner::new(), Schedule::default());
    let at = Outputs::At(vec![0, 4, 6]);
    let mut kinds = vec![Outputs::All, Outputs::Last, at];
    kinds.extend((1..40).map(Outputs::LastN));
    for outputs in kinds {
        let mut before = (0, 0);
        for time in 1..=600 {
            if planner.padded(&mut schedule, 1, time, &outputs, Rows::Reuse).is_err() {
                continue;
            }
            let needs = (schedule.slots(), widths(&schedule).into_iter().max().unwrap_or(0));
            assert!(
                before.0 <= needs.0 && before.1 <= needs.1,
                "{outputs:?}: {needs:?} at {time}, {before:?} before"
            );
            before = needs;
        }
    }
}

fn outputs(shortest: usize) -> impl Strategy<Value = Outputs> {
    prop_oneof![
        Just(Outputs::All),
        Just(Outputs::Last),
        (1..=shortest).prop_map(Outputs::LastN),
        proptest::collection::btree_set(0..shortest, 1..=shortest.min(9))
            .prop_map(|positions| Outputs::At(positions.into_iter().collect())),
    ]
}

fn batch() -> impl Strategy<Value = (Vec<usize>, Outputs)> {
    proptest::collection::vec(prop_oneof![1usize..=9, 1usize..=140], 1..=9).prop_flat_map(|lengths| {
        let shortest = lengths.iter().copied().min().unwrap_or(1);
        (Just(lengths), outputs(shortest))
    })
}

proptest! {
    #[test]
    fn any_outputs_of_any_length_are_the_tree(
        (time, outputs) in (1usize..=700).prop_flat_map(|time| (Just(time), outputs(time))),
    ) {
        for rows in [Rows::Reuse, Rows::Keep] {
            check_whole(&padded(1, time, &outputs, rows), &[time], &outputs, rows);
        }
    }

    #[test]
    fn ragged_batches_are_the_tree(first in batch(), second in batch()) {
        let (mut planner, mut schedule) = (Planner::new(), Schedule::default());
        // The second over what the first has left.
        for (lengths, outputs) in [first, second] {
            for rows in [Rows::Keep, Rows::Reuse] {
                planner.ragged(&mut schedule, &lengths, &outputs, rows).expect("a pass");
                prop_assert_eq!(schedule.width(), 1);
                check_whole(&schedule, &lengths, &outputs, rows);
            }
            // Each sequence is as wide as alone, and a session's memory, that of the longest, has room for all.
            let longest = lengths.iter().copied().max().unwrap_or(1);
            let most = padded(1, longest, &outputs, Rows::Reuse);
            prop_assert!(schedule.slots() <= lengths.len() * most.slots());
            let alone: Vec<_> =
                lengths.iter().map(|&length| widths(&padded(1, length, &outputs, Rows::Reuse))).collect();
            for (step, width) in widths(&schedule).into_iter().enumerate() {
                prop_assert_eq!(width, alone.iter().filter_map(|widths| widths.get(step)).sum::<usize>());
            }
        }
    }
}

/// Streams over one arena, with the trees that their slots must hold.
struct World {
    forest: Forest,
    planner: Planner,
    schedule: Schedule,
    arena: Slots,
    slots: Vec<Option<Tree>>,
    streams: Vec<(Counter, Vec<Tree>)>,
}

impl World {
    fn new(capacity: usize) -> Self {
        World {
            forest: Forest::default(),
            planner: Planner::new(),
            schedule: Schedule::default(),
            arena: Slots::new(capacity),
            slots: vec![None; capacity],
            streams: Vec::new(),
        }
    }

    /// Appends so many tokens to each of these streams, which come once each, with no more free slots than it must
    /// have.
    fn append(&mut self, grown: &[(usize, usize)]) {
        let World { forest, planner, schedule, arena, slots, streams } = self;
        let mut leaves = Vec::new();
        let mut pairs = Vec::new();
        let mut there = HashSet::new();
        for (index, (counter, history)) in streams.iter_mut().enumerate() {
            if let Some((_, tokens)) = grown.iter().find(|(stream, _)| *stream == index) {
                there.extend(forest.held(history));
                let new: Vec<Tree> = (0..*tokens).map(|_| forest.leaf()).collect();
                history.extend(&new);
                leaves.extend(new);
                pairs.push((counter, *tokens));
            }
        }
        let wanted: usize = grown.iter().map(|(_, tokens)| Counter::append_slots(*tokens)).sum();
        let spare: Vec<u32> = (wanted..arena.free()).filter_map(|_| arena.take()).collect();
        assert_eq!(arena.free(), wanted);
        let before: Vec<Counter> = pairs.iter().map(|(counter, _)| (*counter).clone()).collect();
        let missing = arena.take().expect("a free slot");
        assert!(matches!(planner.append(schedule, arena, &mut pairs), Err(Error::Argument { .. })));
        assert_eq!(arena.free(), wanted - 1);
        assert!(pairs.iter().map(|(counter, _)| &**counter).eq(&before));
        arena.give(missing);
        planner.append(schedule, arena, &mut pairs).expect("as many free slots as it must have");
        spare.into_iter().for_each(|slot| arena.give(slot));

        assert_eq!((schedule.width(), schedule.slots()), (1, arena.capacity()));
        let ready = run(schedule, forest, slots, &leaves);
        let mut kept = Vec::new();
        let mut last = Vec::new();
        for (index, (_, history)) in streams.iter().enumerate() {
            if grown.iter().any(|(stream, _)| *stream == index) {
                kept.extend(forest.held(history));
                last.push(Some(forest.prefix(history)));
            }
        }
        assert_eq!(merged(&ready), forest.merges_of(kept, &there));
        let found: Vec<_> = schedule.outputs().iter().map(|&slot| slots[slot as usize]).collect();
        assert_eq!(found, last);
        if let [(_, 1)] = grown {
            assert!(schedule.steps().len() <= streams[grown[0].0].1.len().ilog2() as usize + 1);
        }
        self.check();
    }

    /// Every stream holds its blocks and prefixes, each in a slot of its own; whatever else is poisoned.
    fn check(&mut self) {
        let mut held = HashSet::new();
        for (counter, history) in &self.streams {
            assert_eq!(counter.position(), history.len() as u64);
            let slots: Vec<u32> = counter.slots().collect();
            let trees: Vec<_> = slots.iter().map(|&slot| self.slots[slot as usize]).collect();
            assert_eq!(trees, self.forest.held(history).into_iter().map(Some).collect::<Vec<_>>());
            assert_eq!(slots.len(), counter.held());
            assert!(slots.len() <= Counter::most_held(counter.position()));
            assert!(slots.into_iter().all(|slot| held.insert(slot)), "a slot is held twice");
        }
        assert_eq!(self.arena.free() + held.len(), self.arena.capacity());
        for (slot, tree) in self.slots.iter_mut().enumerate() {
            if !held.contains(&(slot as u32)) {
                *tree = None;
            }
        }
    }

    fn open(&mut self) {
        self.streams.push((Counter::new(), Vec::new()));
    }

    fn fork(&mut self, stream: usize) {
        let (counter, history) = self.streams[stream].clone();
        let taken: Vec<u32> = (0..counter.held()).map(|_| self.arena.take().expect("a free slot")).collect();
        for (from, &to) in counter.slots().zip(&taken) {
            self.slots[to as usize] = self.slots[from as usize];
        }
        self.streams.push((Counter::from_slots(counter.position(), &taken).expect("its slots"), history));
        self.check();
    }

    fn close(&mut self, stream: usize) {
        let (counter, _) = self.streams.swap_remove(stream);
        counter.slots().for_each(|slot| self.arena.give(slot));
        self.check();
    }
}

#[derive(Clone, Debug)]
enum Act {
    Append(Vec<(usize, usize)>),
    Fork(usize),
    Close(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let tokens = prop_oneof![4 => Just(1usize), 2 => 1usize..=9, 1 => 1usize..=70];
    prop_oneof![
        8 => proptest::collection::vec((0usize..6, tokens), 1..=6).prop_map(Act::Append),
        1 => (0usize..6).prop_map(Act::Fork),
        1 => (0usize..6).prop_map(Act::Close),
    ]
}

proptest! {
    #[test]
    fn streams_are_the_tree(acts in proptest::collection::vec(act(), 1..60)) {
        let mut world = World::new(1000);
        (0..4).for_each(|_| world.open());
        for act in acts {
            let open = world.streams.len();
            match act {
                Act::Append(grown) => {
                    let grown: HashMap<usize, usize> =
                        grown.into_iter().map(|(stream, tokens)| (stream % open, tokens)).collect();
                    world.append(&grown.into_iter().collect::<Vec<_>>());
                }
                Act::Fork(stream) if open < 6 => world.fork(stream % open),
                Act::Close(stream) if open > 2 => world.close(stream % open),
                _ => {}
            }
        }
    }
}

#[test]
fn a_piece_of_any_size_at_any_position_is_the_tree() {
    for start in 0..70 {
        for tokens in 1..40 {
            let mut world = World::new(400);
            world.open();
            if start > 0 {
                world.append(&[(0, start)]);
            }
            world.append(&[(0, tokens)]);
        }
    }
}

#[test]
fn a_token_costs_two_merges_amortised() {
    let mut world = World::new(50);
    world.open();
    let mut merges = 0;
    let mut most = 0;
    for tokens in 1..=1100 {
        world.append(&[(0, 1)]);
        merges += world.schedule.merges();
        assert!(merges <= 2 * tokens);
        most = most.max(world.streams[0].0.held());
        assert_eq!(most, Counter::most_held(tokens as u64));
    }
}

#[test]
fn pieces_in_one_call_are_as_many_steps_as_the_longest() {
    let mut world = World::new(4000);
    (0..3).for_each(|_| world.open());
    world.append(&[(0, 1000), (2, 5)]);
    world.append(&[(0, 24), (1, 1), (2, 300)]);
    // 1024 tokens: the block of level 10 is the prefix.
    assert_eq!(world.streams[0].0.held(), 1);
}

/// An [`Error::Argument`] of this argument whose message has this in it.
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, name: &str, part: &str) {
    match result {
        Err(error @ Error::Argument { .. }) => {
            let text = error.to_string();
            assert!(text.starts_with(name) && text.contains(part), "{text}");
        }
        other => panic!("{other:?}, expected a refusal of {name}"),
    }
}

#[test]
fn bad_passes_are_refused_and_change_nothing() {
    let mut planner = Planner::new();
    let before = padded(2, 5, &Outputs::All, Rows::Keep);
    let mut schedule = before.clone();
    let mut pad = |batch, time, outputs: Outputs| {
        let result = planner.padded(&mut schedule, batch, time, &outputs, Rows::Keep);
        assert_eq!(schedule, before);
        result
    };
    refused(pad(0, 5, Outputs::All), "batch", "at least 1");
    refused(pad(5, 0, Outputs::All), "time", "at least 1");
    refused(pad(1, 5, Outputs::LastN(0)), "outputs", "LastN(0)");
    refused(pad(1, 5, Outputs::LastN(6)), "outputs", "1 to 5");
    refused(pad(1, 5, Outputs::At(vec![])), "outputs", "at least one");
    refused(pad(1, 5, Outputs::At(vec![1, 5])), "outputs", "below 5");
    refused(pad(1, 5, Outputs::At(vec![1, 1])), "outputs", "1 after 1");
    refused(pad(1, 5, Outputs::At(vec![7, 1])), "outputs", "1 after 7");
    refused(pad(1 << 20, 1 << 11, Outputs::Last), "batch, time", "2147483648");
    refused(pad(usize::MAX, 2, Outputs::Last), "batch, time", "tokens");
    let mut planner = Planner::new();
    let mut rag = |lengths: &[usize], outputs: Outputs| {
        let result = planner.ragged(&mut schedule, lengths, &outputs, Rows::Reuse);
        assert_eq!(schedule, before);
        result
    };
    refused(rag(&[], Outputs::All), "lengths", "at least one");
    refused(rag(&[3, 0], Outputs::All), "lengths", "sequence 1");
    refused(rag(&[3, 2], Outputs::LastN(3)), "outputs", "sequence 1");
    refused(rag(&[3, 2], Outputs::At(vec![2])), "outputs", "sequence 1");
    refused(rag(&[usize::MAX, usize::MAX], Outputs::Last), "lengths", "tokens");
}

#[test]
fn bad_streams_are_refused_and_change_nothing() {
    let (mut planner, mut schedule, mut arena) = (Planner::new(), Schedule::default(), Slots::new(200));
    refused(planner.append(&mut schedule, &mut arena, &mut []), "streams", "at least one");
    let (mut first, mut second) = (Counter::new(), Counter::new());
    let mut pairs = [(&mut first, 1), (&mut second, 0)];
    refused(planner.append(&mut schedule, &mut arena, &mut pairs), "streams", "stream 1");
    pairs[1].1 = usize::MAX;
    refused(planner.append(&mut schedule, &mut arena, &mut pairs), "streams", "tokens");
    pairs[1].1 = 200;
    refused(planner.append(&mut schedule, &mut arena, &mut pairs), "arena", "free slots");
    let last = (1u64 << 48) - 1;
    let slots: Vec<u32> = (0..95).filter_map(|_| arena.take()).collect();
    let mut full = Counter::from_slots(last, &slots).expect("the last position");
    assert_eq!(full.held(), Counter::most_held(last));
    assert!(full.slots().eq(slots.iter().copied()));
    refused(planner.append(&mut schedule, &mut arena, &mut [(&mut full, 1)]), "position", "2^48");
    refused(Counter::from_slots(last + 1, &[0]), "position", "2^48");
    refused(Counter::from_slots(5, &[0]), "slots", "3 for 5");
    refused(Counter::from_slots(0, &[0]), "slots", "0 for 0");
    assert_eq!((first, second, arena.free()), (Counter::new(), Counter::new(), 105));
    assert_eq!(schedule, Schedule::default());
    // The largest position that can grow does, over all 48 levels.
    let few = Counter::from_slots(last - 1, &slots[..93]).expect("one less");
    let mut full = few.clone();
    arena.give(slots[93]);
    arena.give(slots[94]);
    planner.append(&mut schedule, &mut arena, &mut [(&mut full, 1)]).expect("the last token");
    assert_eq!((full.position(), schedule.merges()), (last, 1));
    assert!(full.slots().take(93).eq(few.slots()));
}
