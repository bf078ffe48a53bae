//! From a parsed function to a [`Kernel`]: names become slots, device functions are put in where they are
//! called, shared and local variables get their places. What is not known is an error with its name.

use super::ir::{Class, Code, Guard, K32, K64, Kernel, Op, Slot, Special};
use super::parse::{Arg, Function, Instruction, Module, Space, Statement, Variable, type_size};
use super::{flow, products, slots, trips};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The first address of the shared window, as `ld.shared` sees it.
pub const SHARED_BASE: u32 = 0x400;
/// The first generic address of the shared window (its offset 0).
pub const SHARED_WINDOW: u64 = 0x2000_0000_0000;
/// The first generic address of a thread's local memory.
pub const LOCAL_WINDOW: u64 = 0x2100_0000_0000;

pub(super) type Result<T> = std::result::Result<T, String>;

/// Fields of a parameter that is passed in registers: offset to class and slot.
type Passed = Rc<RefCell<HashMap<i64, (Class, Slot)>>>;

#[derive(Clone, Copy)]
enum Register {
    One(Class, Slot),
    Many(Class, Slot, u32),
}

#[derive(Default)]
struct Scope {
    registers: HashMap<String, Register>,
    passed: HashMap<String, Passed>,
    variables: HashMap<String, u64>,
}

/// What a symbol stands for.
pub(super) enum Symbol {
    Address(u64),
    KernelParam(u32),
}

/// The state of lowering one kernel.
pub struct Lower<'a> {
    module: &'a Module,
    globals: &'a HashMap<String, u64>,
    pub(super) kernel: Kernel,
    scopes: Vec<Scope>,
    constants32: HashMap<u32, Slot>,
    constants64: HashMap<u64, Slot>,
    specials: HashMap<Special, Slot>,
    labels: HashMap<String, u32>,
    tables: HashMap<String, Vec<String>>,
    shared: HashMap<String, u32>,
    params: HashMap<String, u32>,
    jumps: Vec<(usize, Vec<String>)>,
    calls: Vec<String>,
    instance: u32,
    prefix: String,
    pub(super) line: u32,
    pub(super) guard: Guard,
}

/// Lowers the kernel `name` of `module`, whose variables live at the addresses in `globals`.
pub fn lower(module: &Module, globals: &HashMap<String, u64>, name: &str) -> Result<Kernel> {
    let function = module
        .functions
        .iter()
        .find(|f| f.entry && f.name == name)
        .ok_or_else(|| format!("no kernel '{name}' in this module"))?;
    let mut lower = Lower {
        module,
        globals,
        kernel: Kernel { name: name.to_owned(), max_threads: function.max_threads, ..Kernel::default() },
        scopes: vec![Scope::default()],
        constants32: HashMap::new(),
        constants64: HashMap::new(),
        specials: HashMap::new(),
        labels: HashMap::new(),
        tables: HashMap::new(),
        shared: HashMap::new(),
        params: HashMap::new(),
        jumps: Vec::new(),
        calls: Vec::new(),
        instance: 0,
        prefix: String::new(),
        line: 0,
        guard: None,
    };
    lower.kernel.shared_align = 16;
    // Slot 0 of both planes is zero, for operands that an operation does not have.
    lower.constant32(0);
    lower.constant64(0);
    let mut offset = 0usize;
    for param in &function.params {
        offset = offset.next_multiple_of(param.align);
        lower.params.insert(param.name.clone(), offset as u32);
        lower.kernel.params.push((offset, param.size));
        offset += param.size;
    }
    lower.kernel.param_size = offset;
    lower.body(function)?;
    lower.line = u32::MAX;
    lower.emit(Op::Exit);
    lower.finish()
}

impl<'a> Lower<'a> {
    fn finish(mut self) -> Result<Kernel> {
        for (at, names) in std::mem::take(&mut self.jumps) {
            let mut places = Vec::new();
            for name in &names {
                places.push(*self.labels.get(name).ok_or_else(|| format!("no label '{name}'"))?);
            }
            match &mut self.kernel.code[at].op {
                Op::Jump { to } => *to = places[0],
                Op::JumpTable { to, .. } => *to = places,
                _ => {}
            }
        }
        let mut kernel = self.kernel;
        kernel.constants32 = self.constants32.into_iter().map(|(v, s)| (s, v)).collect();
        kernel.constants64 = self.constants64.into_iter().map(|(v, s)| (s, v)).collect();
        kernel.specials = self.specials.into_iter().map(|(v, s)| (s, v)).collect();
        kernel.constants32.sort_unstable();
        kernel.constants64.sort_unstable();
        kernel.specials.sort_unstable_by_key(|&(s, _)| s);
        flow::arrange(&mut kernel.code);
        flow::definedness(&mut kernel);
        trips::mark(&mut kernel.code);
        slots::compact(&mut kernel);
        products::mark(&mut kernel);
        Ok(kernel)
    }

    pub(super) fn emit(&mut self, op: Op) {
        let (guard, line) = (self.guard, self.line);
        self.kernel.code.push(Code::new(op, guard, line));
    }

    /// Emits a move or another helper that no instruction of the PTX stands for.
    pub(super) fn emit_silent(&mut self, op: Op) {
        self.emit(op);
        self.kernel.code.last_mut().expect("just pushed").counted = false;
    }

    pub(super) fn fresh(&mut self, class: Class) -> Slot {
        let plane = &mut self.kernel.planes[class as usize];
        *plane += 1;
        *plane - 1
    }

    pub(super) fn constant32(&mut self, value: u32) -> Slot {
        if let Some(&slot) = self.constants32.get(&value) {
            return slot;
        }
        let slot = self.fresh(Class::R32);
        self.constants32.insert(value, slot);
        slot
    }

    pub(super) fn constant64(&mut self, value: u64) -> Slot {
        if let Some(&slot) = self.constants64.get(&value) {
            return slot;
        }
        let slot = self.fresh(Class::R64);
        self.constants64.insert(value, slot);
        slot
    }

    fn special(&mut self, special: Special) -> Slot {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.fresh(Class::R32);
        self.specials.insert(special, slot);
        slot
    }

    /// The chip that the module is for, such as `sm_90a`.
    pub(super) fn target(&self) -> &str {
        &self.module.target
    }

    fn body(&mut self, function: &'a Function) -> Result<()> {
        let name = function.name.clone();
        let body = function.body.as_ref().ok_or_else(|| format!("'{name}' has no body"))?;
        self.scopes.push(Scope::default());
        let depth = self.scopes.len();
        for statement in body {
            match statement {
                Statement::Open => self.scopes.push(Scope::default()),
                Statement::Close => {
                    self.scopes.pop();
                }
                Statement::Registers(ty, names) => self.registers(ty, names)?,
                Statement::Variable(variable) => self.variable(variable),
                Statement::Label(label) => {
                    let at = self.kernel.code.len() as u32;
                    self.labels.insert(format!("{}{label}", self.prefix), at);
                }
                Statement::Targets(label, to) => {
                    self.tables.insert(format!("{}{label}", self.prefix), to.clone());
                }
                Statement::Instruction(i) => {
                    self.line = i.line;
                    self.instruction(i).map_err(|e| format!("{name}, line {}: {e}: '{}'", i.line, i.op))?;
                }
            }
        }
        self.scopes.truncate(depth - 1);
        Ok(())
    }

    fn registers(&mut self, ty: &str, names: &[(String, Option<u32>)]) -> Result<()> {
        let class = match ty {
            ".pred" => Class::Pred,
            _ => match type_size(ty) {
                Some(8) => Class::R64,
                Some(1..=4) => Class::R32,
                _ => return Err(format!("registers of type '{ty}' are not supported")),
            },
        };
        for (name, count) in names {
            let plane = &mut self.kernel.planes[class as usize];
            let slot = *plane;
            *plane += count.unwrap_or(1);
            let register = match count {
                Some(count) => Register::Many(class, slot, *count),
                None => Register::One(class, slot),
            };
            let scope = self.scopes.last_mut().expect("a body has a scope");
            scope.registers.insert(name.clone(), register);
        }
        Ok(())
    }

    fn variable(&mut self, variable: &Variable) {
        match variable.space {
            Space::Param => {
                let scope = self.scopes.last_mut().expect("a body has a scope");
                scope.passed.insert(variable.name.clone(), Passed::default());
            }
            Space::Local => {
                let at = self.kernel.local.next_multiple_of(variable.align);
                self.kernel.local = at + variable.size;
                let scope = self.scopes.last_mut().expect("a body has a scope");
                scope.variables.insert(variable.name.clone(), LOCAL_WINDOW + at as u64);
            }
            _ => {
                self.place_shared(variable);
            }
        }
    }

    /// The address of a shared variable, which gets its place when the kernel first names it.
    fn place_shared(&mut self, variable: &Variable) -> u32 {
        if let Some(&address) = self.shared.get(&variable.name) {
            return address;
        }
        if variable.size == 0 {
            self.kernel.shared_align = self.kernel.shared_align.max(variable.align);
            return u32::MAX;
        }
        let at = self.kernel.static_shared.next_multiple_of(variable.align);
        self.kernel.static_shared = at + variable.size;
        self.shared.insert(variable.name.clone(), SHARED_BASE + at as u32);
        SHARED_BASE + at as u32
    }

    fn instruction(&mut self, i: &Instruction) -> Result<()> {
        self.guard = match &i.guard {
            None => None,
            Some((name, negated)) => {
                let (class, slot) =
                    self.register(name).ok_or_else(|| format!("unknown register '{name}'"))?;
                if class != Class::Pred {
                    return Err(format!("'{name}' is no predicate"));
                }
                Some((slot, *negated))
            }
        };
        let parts: Vec<&str> = i.op.split('.').collect();
        match parts[0] {
            "bra" => {
                let Some(Arg::Name(label)) = i.args.first() else { return Err("no label".into()) };
                self.jump(&format!("{}{label}", self.prefix));
                Ok(())
            }
            "brx" => {
                let [index, Arg::Name(table)] = &i.args[..] else { return Err("operands".into()) };
                let index = self.read32(index)?;
                let table = format!("{}{table}", self.prefix);
                let labels = self.tables.get(&table).ok_or("no such table")?;
                let labels = labels.iter().map(|l| format!("{}{l}", self.prefix)).collect();
                self.jumps.push((self.kernel.code.len(), labels));
                self.emit(Op::JumpTable { index, to: Vec::new() });
                Ok(())
            }
            "exit" => {
                self.emit(Op::Exit);
                Ok(())
            }
            "ret" => {
                if self.calls.is_empty() {
                    self.emit(Op::Exit);
                } else {
                    self.jump(&format!("{}return", self.prefix));
                }
                Ok(())
            }
            "trap" | "brkpt" => {
                self.emit(Op::Trap { what: format!("'{}' was reached", i.op) });
                Ok(())
            }
            "call" => self.call(i),
            _ => {
                if self.memory(i, &parts)? || self.alu(i, &parts)? {
                    Ok(())
                } else {
                    Err("instruction not supported".into())
                }
            }
        }
    }

    fn jump(&mut self, label: &str) {
        self.jumps.push((self.kernel.code.len(), vec![label.to_owned()]));
        self.emit(Op::Jump { to: 0 });
    }

    /// Puts the callee's body here; parameters are registers on both sides.
    fn call(&mut self, i: &Instruction) -> Result<()> {
        let mut args = i.args.iter().peekable();
        let mut results: &[Arg] = &[];
        if let Some(Arg::List(list)) = args.peek() {
            results = list;
            args.next();
        }
        let Some(Arg::Name(name)) = args.next() else { return Err("operands".into()) };
        let mut given: &[Arg] = &[];
        if let Some(Arg::List(list)) = args.next() {
            given = list;
        }
        let module = self.module;
        let callee = module.functions.iter().find(|f| &f.name == name && f.body.is_some());
        let Some(callee) = callee else {
            // vprintf, __assertfail and their like: an error when reached.
            let what = if name == "__assertfail" {
                "a device-side assertion failed".to_owned()
            } else {
                format!("a call of '{name}', which is not supported")
            };
            self.emit(Op::Trap { what });
            return Ok(());
        };
        if self.calls.contains(name) {
            return Err(format!("'{name}' calls itself, which is not supported"));
        }
        if self.guard.is_some() {
            return Err("a call under a predicate is not supported".into());
        }
        let mut scope = Scope::default();
        for (formal, actual) in callee.results.iter().zip(results).chain(callee.params.iter().zip(given)) {
            let Arg::Name(actual) = actual else { return Err("operands".into()) };
            let passed = self.passed(actual).ok_or_else(|| format!("no parameter '{actual}'"))?;
            scope.passed.insert(formal.name.clone(), passed);
        }
        self.instance += 1;
        let prefix = std::mem::replace(&mut self.prefix, format!("{}:", self.instance));
        let outside = std::mem::replace(&mut self.scopes, vec![scope]);
        self.calls.push(name.clone());
        let line = self.line;
        self.body(callee)?;
        let at = self.kernel.code.len() as u32;
        self.labels.insert(format!("{}return", self.prefix), at);
        self.calls.pop();
        self.scopes = outside;
        self.prefix = prefix;
        self.line = line;
        self.guard = None;
        Ok(())
    }

    fn passed(&self, name: &str) -> Option<Passed> {
        self.scopes.iter().rev().find_map(|s| s.passed.get(name)).cloned()
    }

    /// The slot of a parameter's field, made on its first use; `None` if the name is no passed parameter.
    pub(super) fn field(&mut self, name: &str, offset: i64, class: Class) -> Result<Option<Slot>> {
        let Some(passed) = self.passed(name) else { return Ok(None) };
        if let Some(&(have, slot)) = passed.borrow().get(&offset) {
            if have != class {
                return Err(format!("'{name}' is written and read with different widths"));
            }
            return Ok(Some(slot));
        }
        let slot = self.fresh(class);
        passed.borrow_mut().insert(offset, (class, slot));
        Ok(Some(slot))
    }

    pub(super) fn register(&self, name: &str) -> Option<(Class, Slot)> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = name[prefix.len()..].parse().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(Register::One(class, slot)) = scope.registers.get(name) {
                return Some((*class, *slot));
            }
            if let (Some(Register::Many(class, slot, count)), Some(number)) =
                (scope.registers.get(prefix), number)
                && number < *count
            {
                return Some((*class, *slot + number));
            }
        }
        None
    }

    pub(super) fn symbol(&mut self, name: &str) -> Option<Symbol> {
        if let Some(&address) = self.scopes.iter().rev().find_map(|s| s.variables.get(name)) {
            return Some(Symbol::Address(address));
        }
        if let Some(&address) = self.globals.get(name) {
            return Some(Symbol::Address(address));
        }
        if let Some(&offset) = self.params.get(name) {
            return Some(Symbol::KernelParam(offset));
        }
        if let Some(&address) = self.shared.get(name) {
            return Some(Symbol::Address(u64::from(address)));
        }
        let module = self.module;
        let variable = module.variables.iter().find(|v| v.space == Space::Shared && v.name == name)?;
        let address = self.place_shared(variable);
        (address != u32::MAX).then_some(Symbol::Address(u64::from(address)))
    }

    /// Whether `name` is the dynamic shared memory, whose address the launch decides.
    fn dynamic_shared(&self, name: &str) -> bool {
        self.module.variables.iter().any(|v| v.space == Space::Shared && v.size == 0 && v.name == name)
    }

    fn special_register(&mut self, name: &str) -> Option<Slot> {
        let axis = |text: &str| match text {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let (head, tail) = name.split_once('.').unwrap_or((name, ""));
        let special = match head {
            "%tid" => Special::Tid(axis(tail)?),
            "%ntid" => Special::Ntid(axis(tail)?),
            "%ctaid" => Special::Ctaid(axis(tail)?),
            "%nctaid" => Special::Nctaid(axis(tail)?),
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%nwarpid" => Special::Nwarp,
            "%smid" => Special::Smid,
            "%nsmid" => Special::Nsmid,
            "%gridid" => Special::Gridid,
            "%lanemask_eq" => Special::LaneMask(0),
            "%lanemask_lt" => Special::LaneMask(1),
            "%lanemask_le" => Special::LaneMask(2),
            "%lanemask_gt" => Special::LaneMask(3),
            "%lanemask_ge" => Special::LaneMask(4),
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" => Special::TotalShared,
            "%cluster_ctaid" | "%cluster_ctarank" => Special::Zero,
            "WARP_SZ" => return Some(self.constant32(32)),
            "%clock" | "%clock_hi" => {
                let d = self.fresh(Class::R32);
                self.emit_silent(Op::Clock { d, wide: false });
                return Some(d);
            }
            _ => return None,
        };
        Some(self.special(special))
    }

    /// A slot of the 32-bit plane that holds the operand.
    pub(super) fn read32(&mut self, arg: &Arg) -> Result<Slot> {
        match arg {
            Arg::Int(v) => Ok(self.constant32(*v as u32)),
            Arg::F32(v) => Ok(self.constant32(*v)),
            Arg::F64(v) => Ok(self.constant32((f64::from_bits(*v) as f32).to_bits())),
            Arg::Name(name) => match self.register(name) {
                Some((Class::R32, slot)) => Ok(slot),
                Some((Class::R64, _)) => Err(format!("'{name}' has 64 bits, 32 expected")),
                Some((Class::Pred, _)) => Err(format!("'{name}' is a predicate")),
                None => {
                    if let Some(slot) = self.special_register(name) {
                        return Ok(slot);
                    }
                    if self.dynamic_shared(name) {
                        let variable = self.module.variables.iter().find(|v| &v.name == name);
                        let align = variable.map_or(16, |v| v.align);
                        self.kernel.shared_align = self.kernel.shared_align.max(align);
                        return Ok(self.special(Special::DynamicBase));
                    }
                    match self.symbol(name) {
                        Some(Symbol::Address(address)) => Ok(self.constant32(address as u32)),
                        Some(Symbol::KernelParam(offset)) => Ok(self.constant32(offset)),
                        None => Err(format!("unknown operand '{name}'")),
                    }
                }
            },
            _ => Err("an operand of a kind that is not supported here".into()),
        }
    }

    /// A slot of the 64-bit plane that holds the operand.
    pub(super) fn read64(&mut self, arg: &Arg) -> Result<Slot> {
        match arg {
            Arg::Int(v) => Ok(self.constant64(*v as u64)),
            Arg::F64(v) => Ok(self.constant64(*v)),
            Arg::F32(v) => Ok(self.constant64(f64::from(f32::from_bits(*v)).to_bits())),
            Arg::Name(name) => match self.register(name) {
                Some((Class::R64, slot)) => Ok(slot),
                Some(_) => Err(format!("'{name}' has not 64 bits")),
                None if matches!(name.as_str(), "%clock64" | "%globaltimer") => {
                    let d = self.fresh(Class::R64);
                    self.emit_silent(Op::Clock { d, wide: true });
                    Ok(d)
                }
                None if self.dynamic_shared(name) => {
                    let base = self.read32(arg)?;
                    let d = self.fresh(Class::R64);
                    let zero = self.constant32(0);
                    let guard = self.guard.take();
                    self.emit_silent(Op::Pack32 { d, lo: base, hi: zero });
                    self.guard = guard;
                    Ok(d)
                }
                None => match self.symbol(name) {
                    Some(Symbol::Address(address)) => Ok(self.constant64(address)),
                    Some(Symbol::KernelParam(offset)) => Ok(self.constant64(u64::from(offset))),
                    None => Err(format!("unknown operand '{name}'")),
                },
            },
            _ => Err("an operand of a kind that is not supported here".into()),
        }
    }

    pub(super) fn read(&mut self, class: Class, arg: &Arg) -> Result<Slot> {
        match class {
            Class::R32 => self.read32(arg),
            Class::R64 => self.read64(arg),
            Class::Pred => self.pred(arg).map(|(slot, _)| slot),
        }
    }

    /// A predicate and whether it is negated.
    pub(super) fn pred(&mut self, arg: &Arg) -> Result<(Slot, bool)> {
        match arg {
            Arg::Not(inner) => self.pred(inner).map(|(slot, negated)| (slot, !negated)),
            Arg::Name(name) => match self.register(name) {
                Some((Class::Pred, slot)) => Ok((slot, false)),
                _ => Err(format!("'{name}' is no predicate")),
            },
            Arg::Int(v) => {
                let d = self.fresh(Class::Pred);
                let guard = self.guard.take();
                self.emit_silent(Op::PredConst { d, value: *v != 0 });
                self.guard = guard;
                Ok((d, false))
            }
            _ => Err("a predicate was expected".into()),
        }
    }

    /// The slot that a result goes to; `_` gets one that nothing reads.
    pub(super) fn write(&mut self, class: Class, arg: &Arg) -> Result<Slot> {
        match arg {
            Arg::Name(name) if name == "_" => Ok(self.fresh(class)),
            Arg::Name(name) => match self.register(name) {
                Some((have, slot)) if have == class => Ok(slot),
                Some((have, _)) => Err(format!("'{name}' is {have:?}, {class:?} expected")),
                None => Err(format!("unknown register '{name}'")),
            },
            _ => Err("a register was expected as destination".into()),
        }
    }

    /// The class of an operand that is a register, if it is one.
    pub(super) fn class_of(&self, arg: &Arg) -> Option<Class> {
        match arg {
            Arg::Name(name) => self.register(name).map(|(class, _)| class),
            _ => None,
        }
    }

    pub(super) fn a32(&mut self, k: K32, d: Slot, s: [Slot; 3]) {
        self.emit(Op::A32 { k, ftz: false, sat: false, d, s });
    }

    pub(super) fn a64(&mut self, k: K64, d: Slot, s: [Slot; 3]) {
        self.emit(Op::A64 { k, d, s });
    }
}
