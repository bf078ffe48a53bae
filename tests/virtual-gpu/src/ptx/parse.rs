//! From tokens to functions, variables and instructions; knows nothing of what an instruction means.

use super::lex::{Kind, Token, tokens};

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Device memory, also `.const`, which is as constant as its initialiser.
    Global,
    /// A block's memory.
    Shared,
    /// A thread's memory.
    Local,
    /// Arguments.
    Param,
    /// Any of the above, told apart by the address.
    Generic,
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Where it lives.
    pub space: Space,
    /// Its name.
    pub name: String,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its size in bytes; 0 where the launch decides.
    pub size: usize,
    /// Its first bytes; the rest is zero.
    pub init: Vec<u8>,
    /// Places in `init` that hold the address of another variable.
    pub addresses: Vec<(usize, String)>,
    /// Whether an initialiser was written.
    pub initialised: bool,
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A register or a symbol.
    Name(String),
    /// An integer literal, sign applied.
    Int(i128),
    /// A float literal of 32 bits.
    F32(u32),
    /// A float literal of 64 bits.
    F64(u64),
    /// `{a, b}`.
    Vector(Vec<Arg>),
    /// `[base + offset]`.
    Memory(Box<Arg>, i64),
    /// `a|b`.
    Pair(Box<Arg>, Box<Arg>),
    /// `!p`.
    Not(Box<Arg>),
    /// `(a, b)`, of a call.
    List(Vec<Arg>),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// The line in the PTX.
    pub line: u32,
    /// `@p` or `@!p`: the register, and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// The opcode with its modifiers.
    pub op: String,
    /// The operands, in order.
    pub args: Vec<Arg>,
}

/// A piece of a function's body.
#[derive(Clone, Debug)]
pub enum Statement {
    /// `{`
    Open,
    /// `}`
    Close,
    /// `.reg .b32 %r<5>;` or `.reg .b16 low, high;`: the type, then names with counts.
    Registers(String, Vec<(String, Option<u32>)>),
    /// A variable in local, shared or parameter space.
    Variable(Variable),
    /// `name:`
    Label(String),
    /// `name: .branchtargets a, b;`
    Targets(String, Vec<String>),
    /// An instruction.
    Instruction(Instruction),
}

/// A kernel or a device function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Whether it is a kernel.
    pub entry: bool,
    /// Its parameters in order.
    pub params: Vec<Variable>,
    /// Its results in order.
    pub results: Vec<Variable>,
    /// Its body, if the module has it.
    pub body: Option<Vec<Statement>>,
    /// `.maxntid` or `.reqntid`, multiplied out.
    pub max_threads: Option<u32>,
}

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// `.target`, such as `sm_80`.
    pub target: String,
    /// Variables of the module.
    pub variables: Vec<Variable>,
    /// Functions of the module.
    pub functions: Vec<Function>,
}

/// The size in bytes of a fundamental type, with or without its dot.
pub fn type_size(ty: &str) -> Option<usize> {
    Some(match ty.trim_start_matches('.') {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

type Result<T> = std::result::Result<T, String>;

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// Parses a module, or says what it did not understand and on which line.
pub fn parse(text: &str) -> Result<Module> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    parser.module()
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn peek_is(&self, c: char) -> bool {
        self.peek().is_some_and(|t| t.is(c))
    }

    fn next(&mut self) -> Result<Token<'a>> {
        let token = self.peek().ok_or("the PTX ends in the middle of something")?;
        self.at += 1;
        Ok(token)
    }

    fn accept(&mut self, c: char) -> bool {
        let yes = self.peek_is(c);
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, c: char) -> Result<()> {
        let token = self.next()?;
        if token.is(c) {
            Ok(())
        } else {
            Err(format!("line {}: expected '{c}', found '{}'", token.line, token.text))
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        let token = self.next()?;
        if token.kind == Kind::Word {
            Ok(token.text)
        } else {
            Err(format!("line {}: expected a name, found '{}'", token.line, token.text))
        }
    }

    fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<()> {
        while !self.accept('{') {
            self.next()?;
        }
        let mut depth = 1;
        while depth > 0 {
            let token = self.next()?;
            depth += i32::from(token.is('{')) - i32::from(token.is('}'));
        }
        Ok(())
    }

    fn integer(&mut self) -> Result<i128> {
        let negative = self.accept('-');
        let token = self.next()?;
        let value = literal(token.text).ok_or_else(|| format!("line {}: '{}'", token.line, token.text))?;
        match value {
            Arg::Int(v) => Ok(if negative { -v } else { v }),
            _ => Err(format!("line {}: expected an integer, found '{}'", token.line, token.text)),
        }
    }

    fn module(&mut self) -> Result<Module> {
        let mut module = Module::default();
        while let Some(token) = self.peek() {
            self.at += 1;
            match token.text {
                ".version" => {
                    let version = self.next()?.text;
                    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
                    module.version = (major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
                }
                ".target" => {
                    module.target = self.word()?.to_owned();
                    self.skip_line(token.line);
                }
                ".address_size" => {
                    if self.integer()? != 64 {
                        return Err(format!("line {}: only .address_size 64", token.line));
                    }
                }
                ".file" | ".loc" => self.skip_line(token.line),
                ".section" => self.skip_braces()?,
                ".visible" | ".extern" | ".weak" | ".common" => {}
                ".entry" | ".func" => module.functions.push(self.function(token.text == ".entry")?),
                ".global" | ".const" | ".shared" => {
                    self.at -= 1;
                    module.variables.extend(self.variables()?);
                }
                ".pragma" => while !self.next()?.is(';') {},
                _ => return Err(format!("line {}: '{}' is not supported", token.line, token.text)),
            }
        }
        // Declarations without a body give way to definitions.
        let defined: Vec<String> =
            module.functions.iter().filter(|f| f.body.is_some()).map(|f| f.name.clone()).collect();
        module.functions.retain(|f| f.body.is_some() || !defined.contains(&f.name));
        Ok(module)
    }

    /// One declaration, `.space .align n .type name[size] = {...}, name2;`, with or without the semicolon.
    fn variables(&mut self) -> Result<Vec<Variable>> {
        let first = self.next()?;
        let space = match first.text {
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            _ => Space::Global,
        };
        let (mut align, mut element, mut lanes) = (0usize, 0usize, 1usize);
        let mut out = Vec::new();
        while let Some(token) = self.peek() {
            if token.kind != Kind::Word || !token.text.starts_with('.') {
                break;
            }
            self.at += 1;
            match token.text {
                ".align" => align = self.integer()? as usize,
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".attribute" | ".managed" => {}
                ty => {
                    element =
                        type_size(ty).ok_or_else(|| format!("line {}: unknown type '{ty}'", token.line))?;
                }
            }
        }
        element *= lanes;
        loop {
            let name = self.word()?.to_owned();
            let (mut count, mut open) = (1usize, false);
            while self.accept('[') {
                if self.accept(']') {
                    open = true;
                } else {
                    count *= self.integer()? as usize;
                    self.expect(']')?;
                }
            }
            let mut variable = Variable {
                space,
                name,
                align: if align == 0 { element.max(1) } else { align },
                size: if open { 0 } else { element * count },
                init: Vec::new(),
                addresses: Vec::new(),
                initialised: false,
            };
            if self.accept('=') {
                variable.initialised = true;
                self.initialiser(&mut variable, element / lanes)?;
                variable.size = variable.size.max(variable.init.len());
            }
            out.push(variable);
            if space == Space::Param || !self.accept(',') {
                break;
            }
        }
        self.accept(';');
        Ok(out)
    }

    fn initialiser(&mut self, variable: &mut Variable, element: usize) -> Result<()> {
        let token = self.next()?;
        if token.is('{') {
            while !self.accept('}') {
                self.initialiser(variable, element)?;
                self.accept(',');
            }
            return Ok(());
        }
        let at = variable.init.len();
        if token.kind == Kind::Word {
            let name = if token.text == "generic" {
                self.expect('(')?;
                let name = self.word()?;
                self.expect(')')?;
                name
            } else {
                token.text
            };
            variable.addresses.push((at, name.to_owned()));
            variable.init.extend_from_slice(&[0; 8]);
            return Ok(());
        }
        let negative = token.is('-');
        let token = if negative { self.next()? } else { token };
        let bits = match literal(token.text) {
            Some(Arg::Int(v)) => (if negative { -v } else { v }) as u64,
            Some(Arg::F32(v)) => u64::from(v),
            Some(Arg::F64(v)) => v,
            _ => return Err(format!("line {}: '{}' in an initialiser", token.line, token.text)),
        };
        variable.init.extend_from_slice(&bits.to_le_bytes()[..element.min(8)]);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        let mut out = Vec::new();
        self.expect('(')?;
        while !self.accept(')') {
            let token = self.peek().ok_or("the PTX ends in a list of parameters")?;
            if token.text == ".reg" {
                return Err(format!("line {}: parameters in registers are not supported", token.line));
            }
            out.extend(self.variables()?);
            self.accept(',');
        }
        Ok(out)
    }

    fn function(&mut self, entry: bool) -> Result<Function> {
        let results = if self.peek_is('(') { self.parameters()? } else { Vec::new() };
        let name = self.word()?.to_owned();
        let params = if self.peek_is('(') { self.parameters()? } else { Vec::new() };
        let mut max_threads = None;
        while let Some(token) = self.peek() {
            match token.text {
                ".maxntid" | ".reqntid" => {
                    self.at += 1;
                    let mut product = self.integer()?;
                    while self.accept(',') {
                        product *= self.integer()?;
                    }
                    max_threads = Some(product as u32);
                }
                ".minnctapersm" | ".maxnreg" => {
                    self.at += 1;
                    self.integer()?;
                }
                ".noreturn" => self.at += 1,
                ".pragma" => while !self.next()?.is(';') {},
                ";" => {
                    self.at += 1;
                    return Ok(Function { name, entry, params, results, body: None, max_threads });
                }
                "{" => break,
                other => return Err(format!("line {}: '{other}' at {name}", token.line)),
            }
        }
        self.expect('{')?;
        let body = self.body()?;
        Ok(Function { name, entry, params, results, body: Some(body), max_threads })
    }

    fn body(&mut self) -> Result<Vec<Statement>> {
        let mut out = Vec::new();
        let mut depth = 1;
        loop {
            let token = self.next()?;
            if token.is('{') {
                depth += 1;
                out.push(Statement::Open);
            } else if token.is('}') {
                depth -= 1;
                if depth == 0 {
                    return Ok(out);
                }
                out.push(Statement::Close);
            } else if token.is('@') {
                let negated = self.accept('!');
                let guard = self.word()?.to_owned();
                let op = self.word()?;
                out.push(Statement::Instruction(self.instruction(token.line, Some((guard, negated)), op)?));
            } else if token.is(';') {
            } else if token.kind != Kind::Word {
                return Err(format!("line {}: '{}' begins a statement", token.line, token.text));
            } else if self.accept(':') {
                match self.peek().map(|t| t.text) {
                    Some(".branchtargets") => {
                        self.at += 1;
                        let mut labels = vec![self.word()?.to_owned()];
                        while self.accept(',') {
                            labels.push(self.word()?.to_owned());
                        }
                        self.expect(';')?;
                        out.push(Statement::Targets(token.text.to_owned(), labels));
                    }
                    Some(".callprototype" | ".calltargets") => while !self.next()?.is(';') {},
                    _ => out.push(Statement::Label(token.text.to_owned())),
                }
            } else {
                match token.text {
                    ".reg" => {
                        let ty = self.word()?.to_owned();
                        let mut names = Vec::new();
                        loop {
                            let name = self.word()?.to_owned();
                            let count = if self.accept('<') {
                                let count = self.integer()? as u32;
                                self.expect('>')?;
                                Some(count)
                            } else {
                                None
                            };
                            names.push((name, count));
                            if !self.accept(',') {
                                break;
                            }
                        }
                        self.expect(';')?;
                        out.push(Statement::Registers(ty, names));
                    }
                    ".local" | ".shared" | ".param" | ".global" | ".const" => {
                        self.at -= 1;
                        out.extend(self.variables()?.into_iter().map(Statement::Variable));
                    }
                    ".loc" | ".file" => self.skip_line(token.line),
                    ".pragma" => while !self.next()?.is(';') {},
                    op if op.starts_with('.') => {
                        return Err(format!("line {}: '{op}' is not supported", token.line));
                    }
                    op => out.push(Statement::Instruction(self.instruction(token.line, None, op)?)),
                }
            }
        }
    }

    fn instruction(&mut self, line: u32, guard: Option<(String, bool)>, op: &str) -> Result<Instruction> {
        let mut args = Vec::new();
        while !self.accept(';') {
            args.push(self.arg()?);
            self.accept(',');
        }
        Ok(Instruction { line, guard, op: op.to_owned(), args })
    }

    fn arg(&mut self) -> Result<Arg> {
        let token = self.next()?;
        let first = if token.is('{') || token.is('(') {
            let close = if token.is('{') { '}' } else { ')' };
            let mut items = Vec::new();
            while !self.accept(close) {
                items.push(self.arg()?);
                self.accept(',');
            }
            if close == '}' { Arg::Vector(items) } else { Arg::List(items) }
        } else if token.is('[') {
            let base = self.arg()?;
            let mut offset = 0i64;
            while self.accept('+') {
                offset += self.integer()? as i64;
            }
            if self.peek_is('-') {
                offset += self.integer()? as i64;
            }
            self.expect(']')?;
            Arg::Memory(Box::new(base), offset)
        } else if token.is('!') {
            Arg::Not(Box::new(self.arg()?))
        } else if token.is('-') {
            match self.arg()? {
                Arg::Int(v) => Arg::Int(-v),
                Arg::F32(v) => Arg::F32(v ^ 0x8000_0000),
                Arg::F64(v) => Arg::F64(v ^ (1 << 63)),
                _ => return Err(format!("line {}: '-' before something that is no number", token.line)),
            }
        } else if token.kind == Kind::Number {
            literal(token.text).ok_or_else(|| format!("line {}: the number '{}'", token.line, token.text))?
        } else if token.kind == Kind::Word {
            Arg::Name(token.text.to_owned())
        } else {
            return Err(format!("line {}: '{}' as an operand", token.line, token.text));
        };
        if self.accept('|') {
            return Ok(Arg::Pair(Box::new(first), Box::new(self.arg()?)));
        }
        Ok(first)
    }
}

/// A literal of PTX: decimal, hexadecimal, octal, binary, `0f` and `0d` floats, decimal floats.
fn literal(text: &str) -> Option<Arg> {
    let lower = text.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return u32::from_str_radix(hex, 16).ok().map(Arg::F32);
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return u64::from_str_radix(hex, 16).ok().map(Arg::F64);
    }
    let digits = lower.trim_end_matches('u');
    let integer = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16).ok()
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2).ok()
    } else if digits.len() > 1 && digits.starts_with('0') && !digits.contains('.') {
        u64::from_str_radix(&digits[1..], 8).ok()
    } else {
        digits.parse::<u64>().ok()
    };
    match integer {
        Some(v) => Some(Arg::Int(i128::from(v))),
        None => lower.parse::<f64>().ok().map(|v| Arg::F64(v.to_bits())),
    }
}
