//! The words of `ptxas -v`: what a kernel takes of an SM. Knows no kernel.

use std::collections::BTreeMap;

/// What a kernel takes, as ptxas compiled it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes of stack of a thread.
    pub stack: u32,
    /// Bytes of spilled registers, stores and loads.
    pub spills: u32,
}

/// The number before `what` in a line such as `8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads`.
fn number_before(line: &str, what: &str) -> Option<u32> {
    line.split(',').find_map(|part| part.trim().strip_suffix(what)?.split_whitespace().last()?.parse().ok())
}

/// `ptxas -v` by kernel.
pub fn resources(words: &str) -> BTreeMap<String, Resources> {
    let mut kernels = BTreeMap::new();
    let mut name = String::new();
    for line in words.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            name = rest.split('\'').next().unwrap().into();
            kernels.insert(
                name.clone(),
                Resources { registers: u32::MAX, spills: u32::MAX, ..Resources::default() },
            );
        } else if let Some(kernel) = kernels.get_mut(&name) {
            if let Some(stack) = number_before(line, " bytes stack frame") {
                let stores = number_before(line, " bytes spill stores").expect(line);
                let loads = number_before(line, " bytes spill loads").expect(line);
                (kernel.stack, kernel.spills) = (stack, stores + loads);
            } else if let Some(used) = line.split("Used ").nth(1) {
                kernel.registers = used.split(' ').next().unwrap().parse().expect(line);
                kernel.shared = number_before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    kernels
}
