//! Puts the blocks of a kernel into an order in which lanes that parted meet again, and finds registers
//! that may be read before they are written.
//!
//! A warp runs its lowest program counter first. That brings lanes together where they should meet only if
//! every block comes after all blocks that lead to it, and a loop's exit after the whole loop. nvcc's order
//! is not such an order, so blocks are moved: strongly connected components in topological order, and the
//! inside of each likewise, without the edges back to its first block.

use super::ir::{Class, Code, Kernel, Op};
use super::touch::Touch;

/// Code without a branch into it or out of it.
pub(super) struct Block {
    pub start: usize,
    pub end: usize,
    pub next: Vec<usize>,
    falls: Option<usize>,
}

/// The blocks of `code`, in its order.
pub(super) fn blocks(code: &[Code]) -> Vec<Block> {
    let mut leads = vec![false; code.len() + 1];
    leads[0] = true;
    for (at, instruction) in code.iter().enumerate() {
        match &instruction.op {
            Op::Jump { to } => {
                leads[*to as usize] = true;
                leads[at + 1] = true;
            }
            Op::JumpTable { to, .. } => {
                to.iter().for_each(|&t| leads[t as usize] = true);
                leads[at + 1] = true;
            }
            Op::Exit | Op::Trap { .. } => leads[at + 1] = true,
            _ => {}
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|&i| leads[i]).collect();
    let mut index = vec![0; code.len() + 1];
    for (block, &start) in starts.iter().enumerate() {
        index[start] = block;
    }
    let mut out = Vec::with_capacity(starts.len());
    for (block, &start) in starts.iter().enumerate() {
        let end = starts.get(block + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let mut next = Vec::new();
        let open = match &last.op {
            Op::Jump { to } => {
                next.push(index[*to as usize]);
                last.guard.is_some()
            }
            Op::JumpTable { to, .. } => {
                next.extend(to.iter().map(|&t| index[t as usize]));
                last.guard.is_some()
            }
            Op::Exit | Op::Trap { .. } => last.guard.is_some(),
            _ => true,
        };
        let falls = (open && end < code.len()).then(|| index[end]);
        next.extend(falls);
        out.push(Block { start, end, next, falls });
    }
    out
}

/// The members of `inside`, in topological order of its strongly connected components, each ordered within.
fn order(blocks: &[Block], inside: &[usize], first: usize, out: &mut Vec<usize>) {
    let mut member = vec![false; blocks.len()];
    inside.iter().for_each(|&b| member[b] = true);
    // Tarjan, without recursion: components come out in reverse topological order.
    let mut number = vec![usize::MAX; blocks.len()];
    let mut low = vec![0; blocks.len()];
    let mut on_stack = vec![false; blocks.len()];
    let (mut stack, mut components, mut count) = (Vec::new(), Vec::new(), 0);
    let visit = |root: usize,
                 number: &mut Vec<usize>,
                 low: &mut Vec<usize>,
                 on_stack: &mut Vec<bool>,
                 stack: &mut Vec<usize>,
                 components: &mut Vec<Vec<usize>>,
                 count: &mut usize| {
        let mut work = vec![(root, 0usize)];
        while let Some(&(node, mut edge)) = work.last() {
            if edge == 0 {
                number[node] = *count;
                low[node] = *count;
                *count += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            let mut descend = None;
            while edge < blocks[node].next.len() && descend.is_none() {
                let to = blocks[node].next[edge];
                edge += 1;
                if !member[to] || to == first {
                    continue;
                }
                if number[to] == usize::MAX {
                    descend = Some(to);
                } else if on_stack[to] {
                    low[node] = low[node].min(number[to]);
                }
            }
            work.last_mut().expect("the node itself").1 = edge;
            if let Some(to) = descend {
                work.push((to, 0));
                continue;
            }
            {
                work.pop();
                if let Some(&(parent, _)) = work.last() {
                    low[parent] = low[parent].min(low[node]);
                }
                if low[node] == number[node] {
                    let mut component = Vec::new();
                    loop {
                        let b = stack.pop().expect("the component's root is on the stack");
                        on_stack[b] = false;
                        component.push(b);
                        if b == node {
                            break;
                        }
                    }
                    components.push(component);
                }
            }
        }
    };
    // The first block alone leads; edges back to it are ignored.
    visit(first, &mut number, &mut low, &mut on_stack, &mut stack, &mut components, &mut count);
    for &b in inside {
        if number[b] == usize::MAX {
            visit(b, &mut number, &mut low, &mut on_stack, &mut stack, &mut components, &mut count);
        }
    }
    let placed_from = out.len();
    for component in components.iter().rev() {
        if component.len() == 1 {
            out.push(component[0]);
            continue;
        }
        // The entry of a loop is a block that something already placed leads to.
        let entry = out[placed_from..]
            .iter()
            .flat_map(|&b| blocks[b].next.iter().copied())
            .find(|b| component.contains(b))
            .unwrap_or(component[component.len() - 1]);
        order(blocks, component, entry, out);
    }
}

/// Reorders `code` and appends the jumps that the new order needs.
pub fn arrange(code: &mut Vec<Code>) {
    if code.is_empty() {
        return;
    }
    let blocks = blocks(code);
    // Blocks that nothing reaches are dropped.
    let mut reached = vec![false; blocks.len()];
    let mut work = vec![0];
    while let Some(b) = work.pop() {
        if !std::mem::replace(&mut reached[b], true) {
            work.extend(&blocks[b].next);
        }
    }
    let inside: Vec<usize> = (0..blocks.len()).filter(|&b| reached[b]).collect();
    let mut sequence = Vec::new();
    order(&blocks, &inside, 0, &mut sequence);
    let mut out: Vec<Code> = Vec::with_capacity(code.len());
    let mut moved = vec![0u32; code.len() + 1];
    let mut fixes = Vec::new();
    for (position, &b) in sequence.iter().enumerate() {
        let block = &blocks[b];
        moved[block.start] = out.len() as u32;
        out.extend_from_slice(&code[block.start..block.end]);
        if let Some(falls) = block.falls
            && sequence.get(position + 1) != Some(&falls)
        {
            let line = code[block.end - 1].line;
            fixes.push((out.len(), blocks[falls].start));
            let op = Op::Jump { to: 0 };
            out.push(Code { counted: false, ..Code::new(op, None, line) });
        }
    }
    let appended: std::collections::HashMap<usize, usize> = fixes.into_iter().collect();
    for (at, instruction) in out.iter_mut().enumerate() {
        match &mut instruction.op {
            Op::Jump { to } => *to = moved[appended.get(&at).copied().unwrap_or(*to as usize)],
            Op::JumpTable { to, .. } => to.iter_mut().for_each(|t| *t = moved[*t as usize]),
            _ => {}
        }
    }
    *code = out;
}

/// Fills in `checks`, `marks` and `tracked`: a mask of defined lanes is kept only for registers with a use
/// that some path reaches without a definition.
pub fn definedness(kernel: &mut Kernel) {
    let base = [0, kernel.planes[0], kernel.planes[0] + kernel.planes[1]];
    let total = (base[2] + kernel.planes[2]) as usize;
    let id = |class: Class, slot: u32| {
        (match class {
            Class::R32 => base[0],
            Class::R64 => base[1],
            Class::Pred => base[2],
        } + slot) as usize
    };
    let words = total.div_ceil(64);
    let mut always = vec![0u64; words];
    let mut set = |i: usize| always[i / 64] |= 1 << (i % 64);
    kernel.constants32.iter().for_each(|&(s, _)| set(id(Class::R32, s)));
    kernel.constants64.iter().for_each(|&(s, _)| set(id(Class::R64, s)));
    kernel.specials.iter().for_each(|&(s, _)| set(id(Class::R32, s)));
    let blocks = blocks(&kernel.code);
    let mut before = vec![vec![u64::MAX; words]; blocks.len()];
    before[0] = always;
    let step = |defined: &mut [u64], code: &Code, uses: &mut dyn FnMut(usize, bool)| {
        let mut moved_undefined = false;
        if let Some((p, _)) = code.guard {
            uses(id(Class::Pred, p), defined[id(Class::Pred, p) / 64] >> (id(Class::Pred, p) % 64) & 1 == 1);
        }
        code.op.touches(&mut |class, slot, touch| {
            let i = id(class, slot);
            let known = defined[i / 64] >> (i % 64) & 1 == 1;
            if touch == Touch::Update {
                uses(i, known);
            }
            match touch {
                Touch::Use => uses(i, known),
                Touch::Move => moved_undefined |= !known,
                Touch::Def | Touch::Update => {
                    if code.guard.is_none() && !moved_undefined {
                        defined[i / 64] |= 1 << (i % 64);
                    }
                }
            }
        });
    };
    let mut work: std::collections::BTreeSet<usize> = (0..blocks.len()).collect();
    while let Some(b) = work.pop_first() {
        let mut defined = before[b].clone();
        for code in &kernel.code[blocks[b].start..blocks[b].end] {
            step(&mut defined, code, &mut |_, _| {});
        }
        for &to in &blocks[b].next {
            let mut changed = false;
            for (have, &new) in before[to].iter_mut().zip(&defined) {
                changed |= *have & new != *have;
                *have &= new;
            }
            if changed {
                work.insert(to);
            }
        }
    }
    // Registers that some use may find undefined, and whatever is moved into them.
    let mut tracked = vec![u32::MAX; total];
    let mut count = 0;
    for (b, block) in blocks.iter().enumerate() {
        let mut defined = before[b].clone();
        for code in &kernel.code[block.start..block.end] {
            step(&mut defined, code, &mut |i, known| {
                if !known && tracked[i] == u32::MAX {
                    tracked[i] = count;
                    count += 1;
                }
            });
        }
    }
    loop {
        let had = count;
        for code in &kernel.code {
            let mut sources = Vec::new();
            code.op.touches(&mut |class, slot, touch| match touch {
                Touch::Move => sources.push(id(class, slot)),
                Touch::Def if tracked[id(class, slot)] != u32::MAX => {
                    for &s in &sources {
                        if tracked[s] == u32::MAX {
                            tracked[s] = count;
                            count += 1;
                        }
                    }
                }
                _ => {}
            });
        }
        if had == count {
            break;
        }
    }
    kernel.tracked = count;
    let mut lists: Vec<u32> = Vec::new();
    for (b, block) in blocks.iter().enumerate() {
        let mut defined = before[b].clone();
        for code in &mut kernel.code[block.start..block.end] {
            let start = lists.len() as u32;
            let mut guard = code.guard.map(|(p, _)| id(Class::Pred, p));
            let mut guard_check = u32::MAX;
            step(&mut defined, code, &mut |i, known| {
                // The guard comes first. It is read by all lanes, not by those only that it lets pass.
                if guard.take() == Some(i) {
                    guard_check = if known { u32::MAX } else { tracked[i] };
                } else if !known {
                    lists.push(tracked[i]);
                }
            });
            code.guard_check = guard_check;
            code.checks = (start, lists.len() as u32 - start);
            let start = lists.len() as u32;
            let mut moved = Vec::new();
            code.op.touches(&mut |class, slot, touch| match touch {
                Touch::Move => moved.push(tracked[id(class, slot)]),
                Touch::Def | Touch::Update if tracked[id(class, slot)] != u32::MAX => {
                    // A move: the destination, then its source if that is tracked.
                    lists.push(tracked[id(class, slot)]);
                    lists.push(moved.iter().copied().find(|&m| m != u32::MAX).unwrap_or(u32::MAX));
                }
                _ => {}
            });
            code.marks = (start, lists.len() as u32 - start);
        }
    }
    kernel.checks = lists;
    // Constants and specials that are tracked (as sources of moves) are defined from the start.
    let mut defined_from_start = Vec::new();
    for &(s, _) in &kernel.constants32 {
        defined_from_start.push(tracked[id(Class::R32, s)]);
    }
    for &(s, _) in &kernel.constants64 {
        defined_from_start.push(tracked[id(Class::R64, s)]);
    }
    for &(s, _) in &kernel.specials {
        defined_from_start.push(tracked[id(Class::R32, s)]);
    }
    defined_from_start.retain(|&t| t != u32::MAX);
    kernel.defined_from_start = defined_from_start;
}
