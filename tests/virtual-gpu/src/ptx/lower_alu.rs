//! Lowers arithmetic and logic.

use super::ir::{Bool, Class, Cmp, HalfOp, HalfType, K32, K64, Num, Op, Round};
use super::lower::{Lower, Result};
use super::lower_move::{narrow, round};
use super::parse::{Arg, Instruction};

/// The modifiers of an arithmetic instruction.
struct Mods<'a> {
    num: Num,
    round: Option<Round>,
    ftz: bool,
    sat: bool,
    approx: bool,
    full: bool,
    nan: bool,
    relu: bool,
    words: Vec<&'a str>,
}

fn mods<'a>(parts: &[&'a str]) -> Option<Mods<'a>> {
    let (last, front) = parts.split_last()?;
    let mut out = Mods {
        num: Num::parse(last)?,
        round: None,
        ftz: false,
        sat: false,
        approx: false,
        full: false,
        nan: false,
        relu: false,
        words: Vec::new(),
    };
    for part in front {
        match *part {
            "ftz" => out.ftz = true,
            "sat" => out.sat = true,
            "approx" => out.approx = true,
            "full" => out.full = true,
            "NaN" => out.nan = true,
            "relu" => out.relu = true,
            // Rounding to an integer is for conversions; said twice, it is a word that nobody knows.
            part => match round(part) {
                Some(r) if out.round.is_none() && !part.ends_with('i') => out.round = Some(r),
                _ => out.words.push(part),
            },
        }
    }
    Some(out)
}

impl Mods<'_> {
    /// Whether every modifier means something to the instruction `name`: one that is passed over in silence
    /// would compute something else than a card.
    fn fit(&self, name: &str) -> bool {
        let Mods { round, ftz, sat, approx, full, nan, relu, .. } = *self;
        let ways = u32::from(round.is_some()) + u32::from(approx) + u32::from(full);
        let only = |may_ftz: bool, may_sat: bool| (may_ftz || !ftz) && (may_sat || !sat);
        match (self.num, name) {
            (Num::F32, "add" | "sub" | "mul" | "fma" | "mad") => !approx && !full && !nan && !relu,
            (Num::F32, "div") => ways == 1 && only(true, false) && !nan && !relu,
            (Num::F32, "rcp" | "sqrt") => ways == 1 && !full && only(true, false) && !nan && !relu,
            (Num::F32, "rsqrt" | "sin" | "cos" | "lg2" | "ex2") => {
                approx && ways == 1 && only(true, false) && !nan && !relu
            }
            (Num::F32, "min" | "max") => ways == 0 && only(true, false) && !relu,
            (Num::F32, "abs" | "neg") => ways == 0 && only(true, false) && !nan && !relu,
            (Num::F64, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt") => {
                !approx && !full && only(false, false) && !nan && !relu
            }
            (Num::F16 | Num::F16x2 | Num::BF16 | Num::BF16x2, "fma") => {
                ways == 1 && round.is_some() && only(false, false) && !nan
            }
            (Num::F16 | Num::F16x2 | Num::BF16 | Num::BF16x2, "add" | "sub" | "mul") => {
                !approx && !full && only(false, false) && !nan && !relu
            }
            (Num::F16 | Num::F16x2 | Num::BF16 | Num::BF16x2, "min" | "max") => {
                ways == 0 && only(false, false) && !relu
            }
            // `tanh` of every width; `ex2` of bf16 always flushes subnormals, and is written so.
            (_, "tanh") => approx && ways == 1 && only(false, false) && !nan && !relu,
            (Num::F16 | Num::F16x2, "ex2") => approx && ways == 1 && only(false, false) && !nan && !relu,
            (Num::BF16 | Num::BF16x2, "ex2") => approx && ways == 1 && ftz && !sat && !nan && !relu,
            _ => ways == 0 && only(false, false) && !nan && !relu,
        }
    }
}

fn half(num: Num) -> Option<HalfType> {
    Some(match num {
        Num::F16 => HalfType::F16,
        Num::F16x2 => HalfType::F16x2,
        Num::BF16 => HalfType::BF16,
        Num::BF16x2 => HalfType::BF16x2,
        _ => return None,
    })
}

impl Lower<'_> {
    /// Lowers `i` if it is one of this file's; `false` if not.
    pub(super) fn alu(&mut self, i: &Instruction, parts: &[&str]) -> Result<bool> {
        let args = &i.args;
        match parts[0] {
            "mov" if parts.len() == 2 => return self.mov(i, parts).map(|()| true),
            "setp" => return self.setp(i, &parts[1..]).map(|()| true),
            "cvt" => return self.cvt(i, &parts[1..]).map(|()| true),
            "selp" if parts.len() == 2 => {
                let num = Num::parse(parts[1]).ok_or("type")?;
                let class = num.class();
                let d = self.write(class, &args[0])?;
                let (a, b) = (narrow(num, &args[1]), narrow(num, &args[2]));
                let (mut a, mut b) = (self.read(class, &a)?, self.read(class, &b)?);
                let (p, negated) = self.pred(&args[3])?;
                if negated {
                    std::mem::swap(&mut a, &mut b);
                }
                self.emit(Op::Select { class, d, a, b, p });
                return Ok(true);
            }
            "set" => {
                // set.cmp.dtype.stype d, a, b: all ones, or 1.0 for a float.
                let [_, front @ .., to, _] = parts else { return Err("types".into()) };
                if !matches!(*to, "u32" | "s32" | "f32") {
                    return Err(format!("type '{to}' is not supported"));
                }
                let p = self.fresh(Class::Pred);
                let mut inner = front.to_vec();
                inner.push(parts[parts.len() - 1]);
                self.compare_into(p, None, &args[1..], &inner)?;
                let d = self.write(Class::R32, &args[0])?;
                let one = if *to == "f32" { 1f32.to_bits() } else { u32::MAX };
                let (one, zero) = (self.constant32(one), self.constant32(0));
                self.emit_silent(Op::Select { class: Class::R32, d, a: one, b: zero, p });
                return Ok(true);
            }
            "and" | "or" | "xor" | "not" if parts[1..] == ["pred"] => {
                let k = match parts[0] {
                    "and" => Bool::And,
                    "or" => Bool::Or,
                    "xor" => Bool::Xor,
                    _ => Bool::Not,
                };
                let d = self.write(Class::Pred, &args[0])?;
                let (a, not_a) = self.pred(&args[1])?;
                let (b, not_b) = if k == Bool::Not { (a, false) } else { self.pred(&args[2])? };
                self.emit(Op::Pred { k, d, a, b, not_a, not_b });
                return Ok(true);
            }
            "lop3" if parts[1..] == ["b32"] => {
                let d = self.write(Class::R32, &args[0])?;
                let s = [self.read32(&args[1])?, self.read32(&args[2])?, self.read32(&args[3])?];
                let Arg::Int(lut) = args[4] else { return Err("a table was expected".into()) };
                self.a32(K32::Lop3(lut as u8), d, s);
                return Ok(true);
            }
            "shf" => {
                let k = match parts[1..] {
                    ["l", "wrap", "b32"] => K32::ShfLWrap,
                    ["l", "clamp", "b32"] => K32::ShfLClamp,
                    ["r", "wrap", "b32"] => K32::ShfRWrap,
                    ["r", "clamp", "b32"] => K32::ShfRClamp,
                    _ => return Err("instruction not supported".into()),
                };
                self.three32(k, args, false, false)?;
                return Ok(true);
            }
            "prmt" => {
                let k = match parts[1..] {
                    ["b32"] => K32::Prmt,
                    ["b32", "f4e"] => K32::PrmtMode(0),
                    ["b32", "b4e"] => K32::PrmtMode(1),
                    ["b32", "rc8"] => K32::PrmtMode(2),
                    ["b32", "ecl"] => K32::PrmtMode(3),
                    ["b32", "ecr"] => K32::PrmtMode(4),
                    ["b32", "rc16"] => K32::PrmtMode(5),
                    _ => return Err("instruction not supported".into()),
                };
                self.three32(k, args, false, false)?;
                return Ok(true);
            }
            "bfi" if matches!(parts[1..], ["b32" | "b64"]) => {
                let wide = parts[1] == "b64";
                let class = if wide { Class::R64 } else { Class::R32 };
                let d = self.write(class, &args[0])?;
                let (a, b) = (self.read(class, &args[1])?, self.read(class, &args[2])?);
                let (c, e) = (self.read32(&args[3])?, self.read32(&args[4])?);
                self.emit(if wide { Op::Bfi64 { d, a, b, c, e } } else { Op::Bfi32 { d, a, b, c, e } });
                return Ok(true);
            }
            "bfe" if matches!(parts[1..], ["u32" | "s32" | "u64" | "s64"]) => {
                let num = Num::parse(parts[1]).ok_or("type")?;
                if num.size() == 8 {
                    let (d, a) = (self.write(Class::R64, &args[0])?, self.read64(&args[1])?);
                    let (b, c) = (self.read32(&args[2])?, self.read32(&args[3])?);
                    self.emit(Op::Bfe64 { signed: num.signed(), d, a, b, c });
                } else {
                    self.three32(if num.signed() { K32::BfeS } else { K32::BfeU }, args, false, false)?;
                }
                return Ok(true);
            }
            "popc" | "clz" | "bfind" | "brev" => {
                let (shift, ty) = match (parts[0], &parts[1..]) {
                    ("bfind", ["shiftamt", ty @ ("u32" | "s32" | "u64" | "s64")]) => (true, ty),
                    ("bfind", [ty @ ("u32" | "s32" | "u64" | "s64")]) => (false, ty),
                    ("popc" | "clz" | "brev", [ty @ ("b32" | "b64")]) => (false, ty),
                    _ => return Err("instruction not supported".into()),
                };
                let num = Num::parse(ty).ok_or("type")?;
                let k = match (parts[0], num.signed(), shift) {
                    ("popc", ..) => K32::Popc,
                    ("clz", ..) => K32::Clz,
                    ("brev", ..) => K32::Brev,
                    (_, false, false) => K32::BfindU,
                    (_, true, false) => K32::BfindS,
                    (_, false, true) => K32::BfindShiftU,
                    (_, true, true) => K32::BfindShiftS,
                };
                if num.size() == 4 {
                    self.three32(k, args, false, false)?;
                } else if k == K32::Brev {
                    let (d, a) = (self.write(Class::R64, &args[0])?, self.read64(&args[1])?);
                    self.a64(K64::Brev, d, [a, 0, 0]);
                } else {
                    let (d, a) = (self.write(Class::R32, &args[0])?, self.read64(&args[1])?);
                    self.emit(Op::Bits64 { k, d, a });
                }
                return Ok(true);
            }
            "dp4a" => {
                let k = match parts[1..] {
                    ["s32", "s32"] => K32::Dp4aS,
                    ["u32", "u32"] => K32::Dp4aU,
                    _ => return Err("instruction not supported".into()),
                };
                self.three32(k, args, false, false)?;
                return Ok(true);
            }
            "testp" => {
                let what = match parts[1..] {
                    ["finite", "f32"] => 0,
                    ["infinite", "f32"] => 1,
                    ["number", "f32"] => 2,
                    ["notanumber", "f32"] => 3,
                    ["normal", "f32"] => 4,
                    ["subnormal", "f32"] => 5,
                    _ => return Err("instruction not supported".into()),
                };
                let d = self.write(Class::Pred, &args[0])?;
                let a = self.read32(&args[1])?;
                let t = self.fresh(Class::R32);
                self.a32(K32::FTestp(what), t, [a, 0, 0]);
                let zero = self.constant32(0);
                self.emit_silent(Op::Setp {
                    cmp: Cmp::Ne,
                    num: Num::U32,
                    ftz: false,
                    d,
                    other: None,
                    a: t,
                    b: zero,
                    join: None,
                });
                return Ok(true);
            }
            _ => {}
        }
        let Some(m) = mods(&parts[1..]) else { return Ok(false) };
        if !m.fit(parts[0]) {
            return Ok(false);
        }
        if matches!(parts[0], "mul" | "add" | "sub") && m.num == Num::F32 && m.round.is_none() {
            self.kernel.bare_float.get_or_insert((i.line, i.op.clone()));
        }
        match m.num {
            Num::F32 => self.float(i, parts[0], &m),
            Num::F64 => self.double(i, parts[0], &m),
            Num::F16 | Num::BF16 | Num::F16x2 | Num::BF16x2 => self.half(i, parts[0], &m),
            num if num.size() == 8 => self.integer64(i, parts[0], &m),
            num if num.size() == 2 => self.integer16(i, parts[0], &m),
            _ => self.integer32(i, parts[0], &m),
        }
    }

    fn three32(&mut self, k: K32, args: &[Arg], ftz: bool, sat: bool) -> Result<()> {
        let d = self.write(Class::R32, &args[0])?;
        let mut s = [0; 3];
        for (slot, arg) in s.iter_mut().zip(&args[1..]) {
            *slot = self.read32(arg)?;
        }
        self.emit(Op::A32 { k, ftz, sat, d, s });
        Ok(())
    }

    fn three64(&mut self, k: K64, args: &[Arg]) -> Result<()> {
        let d = self.write(Class::R64, &args[0])?;
        let mut s = [0; 3];
        for (slot, arg) in s.iter_mut().zip(&args[1..]) {
            *slot = self.read64(arg)?;
        }
        self.a64(k, d, s);
        Ok(())
    }

    fn float(&mut self, i: &Instruction, name: &str, m: &Mods<'_>) -> Result<bool> {
        if !m.words.is_empty() {
            return Ok(false);
        }
        let r = m.round.unwrap_or(Round::Nearest);
        let k = match name {
            "add" => K32::FAdd(r),
            "sub" => K32::FSub(r),
            "mul" => K32::FMul(r),
            "fma" | "mad" => K32::FFma(r),
            "div" if m.approx => K32::FDivApprox,
            "div" if m.full => K32::FDivFull,
            "div" => K32::FDiv(r),
            "min" if m.nan => K32::FMinNan,
            "max" if m.nan => K32::FMaxNan,
            "min" => K32::FMin,
            "max" => K32::FMax,
            "abs" => K32::FAbs,
            "neg" => K32::FNeg,
            "copysign" => K32::FCopysign,
            "rcp" if m.approx => K32::FRcpApprox,
            "rcp" => K32::FRcp(r),
            "sqrt" if m.approx => K32::FSqrtApprox,
            "sqrt" => K32::FSqrt(r),
            "rsqrt" => K32::FRsqrtApprox,
            "sin" => K32::FSin,
            "cos" => K32::FCos,
            "lg2" => K32::FLg2,
            "ex2" => K32::FEx2,
            "tanh" => K32::FTanh,
            _ => return Ok(false),
        };
        if k == K32::FCopysign {
            // copysign d, a, b: the sign of a, the magnitude of b.
            let d = self.write(Class::R32, &i.args[0])?;
            let (a, b) = (self.read32(&i.args[1])?, self.read32(&i.args[2])?);
            self.a32(k, d, [b, a, 0]);
            return Ok(true);
        }
        self.three32(k, &i.args, m.ftz, m.sat)?;
        Ok(true)
    }

    fn double(&mut self, i: &Instruction, name: &str, m: &Mods<'_>) -> Result<bool> {
        if !m.words.is_empty() || !matches!(m.round, None | Some(Round::Nearest)) || m.approx || m.sat {
            return Ok(false);
        }
        let k = match name {
            "add" => K64::DAdd,
            "sub" => K64::DSub,
            "mul" => K64::DMul,
            "fma" | "mad" => K64::DFma,
            "div" => K64::DDiv,
            "min" => K64::DMin,
            "max" => K64::DMax,
            "abs" => K64::DAbs,
            "neg" => K64::DNeg,
            "rcp" => K64::DRcp,
            "sqrt" => K64::DSqrt,
            "copysign" => {
                let d = self.write(Class::R64, &i.args[0])?;
                let (a, b) = (self.read64(&i.args[1])?, self.read64(&i.args[2])?);
                self.a64(K64::DCopysign, d, [b, a, 0]);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.three64(k, &i.args)?;
        Ok(true)
    }

    fn half(&mut self, i: &Instruction, name: &str, m: &Mods<'_>) -> Result<bool> {
        let Some(ty) = half(m.num) else { return Ok(false) };
        if !m.words.is_empty() || m.sat || !matches!(m.round, None | Some(Round::Nearest)) {
            return Ok(false);
        }
        let k = match name {
            "add" => K32::Half(HalfOp::Add, ty),
            "sub" => K32::Half(HalfOp::Sub, ty),
            "mul" => K32::Half(HalfOp::Mul, ty),
            "fma" if m.relu => K32::Half(HalfOp::FmaRelu, ty),
            "fma" => K32::Half(HalfOp::Fma, ty),
            "min" if m.nan => K32::Half(HalfOp::MinNan, ty),
            "max" if m.nan => K32::Half(HalfOp::MaxNan, ty),
            "min" => K32::Half(HalfOp::Min, ty),
            "max" => K32::Half(HalfOp::Max, ty),
            "neg" => K32::Half(HalfOp::Neg, ty),
            "abs" => K32::Half(HalfOp::Abs, ty),
            "tanh" => K32::HalfTanh(ty),
            "ex2" => K32::HalfEx2(ty),
            _ => return Ok(false),
        };
        self.three32(k, &i.args, m.ftz, false)?;
        Ok(true)
    }

    fn integer32(&mut self, i: &Instruction, name: &str, m: &Mods<'_>) -> Result<bool> {
        let signed = m.num.signed();
        let pick = |s: K32, u: K32| if signed { s } else { u };
        if m.sat || m.num.size() != 4 {
            return Ok(false);
        }
        let k = match (name, &m.words[..]) {
            ("add", []) => K32::Add,
            ("sub", []) => K32::Sub,
            ("mul", ["lo"]) => K32::MulLo,
            ("mul", ["hi"]) => pick(K32::MulHiS, K32::MulHiU),
            ("mul" | "mad", ["wide"]) => {
                let d = self.write(Class::R64, &i.args[0])?;
                let (a, b) = (self.read32(&i.args[1])?, self.read32(&i.args[2])?);
                let c = if name == "mad" { self.read64(&i.args[3])? } else { 0 };
                self.emit(Op::Wide { signed, d, a, b, c });
                return Ok(true);
            }
            ("mul24", ["lo"]) => pick(K32::Mul24S, K32::Mul24U),
            ("mad24", ["lo"]) => pick(K32::Mad24S, K32::Mad24U),
            ("mad", ["lo"]) => K32::MadLo,
            ("mad", ["hi"]) => pick(K32::MadHiS, K32::MadHiU),
            ("sad", []) => pick(K32::SadS, K32::SadU),
            ("div", []) => pick(K32::DivS, K32::DivU),
            ("rem", []) => pick(K32::RemS, K32::RemU),
            ("min", []) => pick(K32::MinS, K32::MinU),
            ("max", []) => pick(K32::MaxS, K32::MaxU),
            ("abs", []) => K32::AbsS,
            ("neg", []) => K32::Neg,
            ("not", []) => K32::Not,
            ("cnot", []) => K32::Cnot,
            ("and", []) => K32::And,
            ("or", []) => K32::Or,
            ("xor", []) => K32::Xor,
            ("shl", []) => K32::Shl,
            ("shr", []) => pick(K32::ShrS, K32::ShrU),
            _ => return Ok(false),
        };
        self.three32(k, &i.args, false, false)?;
        Ok(true)
    }

    fn integer16(&mut self, i: &Instruction, name: &str, m: &Mods<'_>) -> Result<bool> {
        let signed = m.num.signed();
        let pick = |s: K32, u: K32| if signed { s } else { u };
        let k = match (name, &m.words[..]) {
            ("add", []) => K32::Add16,
            ("sub", []) => K32::Sub16,
            ("mul", ["lo"]) => K32::MulLo16,
            ("mul", ["hi"]) => pick(K32::MulHiS16, K32::MulHiU16),
            ("mul", ["wide"]) => pick(K32::MulWideS16, K32::MulWideU16),
            ("mad", ["lo"]) => K32::MadLo16,
            ("mad", ["wide"]) => pick(K32::MadWideS16, K32::MadWideU16),
            ("div", []) => pick(K32::DivS16, K32::DivU16),
            ("rem", []) => pick(K32::RemS16, K32::RemU16),
            ("min", []) => pick(K32::MinS16, K32::MinU16),
            ("max", []) => pick(K32::MaxS16, K32::MaxU16),
            ("abs", []) => K32::AbsS16,
            ("neg", []) => K32::Neg16,
            ("not", []) => K32::Not16,
            ("and", []) => K32::And,
            ("or", []) => K32::Or,
            ("xor", []) => K32::Xor,
            ("shl", []) => K32::Shl16,
            ("shr", []) => pick(K32::ShrS16, K32::ShrU16),
            _ => return Ok(false),
        };
        let args: Vec<Arg> = i
            .args
            .iter()
            .enumerate()
            .map(|(n, a)| match a {
                // The distance of a shift has 32 bits, as has what a wide product is added to.
                a if matches!(name, "shl" | "shr") && n == 2 => a.clone(),
                a if m.words == ["wide"] && n == 3 => a.clone(),
                a => narrow(m.num, a),
            })
            .collect();
        self.three32(k, &args, false, false)?;
        Ok(true)
    }

    fn integer64(&mut self, i: &Instruction, name: &str, m: &Mods<'_>) -> Result<bool> {
        let signed = m.num.signed();
        let pick = |s: K64, u: K64| if signed { s } else { u };
        let k = match (name, &m.words[..]) {
            ("shl" | "shr", []) => {
                let d = self.write(Class::R64, &i.args[0])?;
                let (a, b) = (self.read64(&i.args[1])?, self.read32(&i.args[2])?);
                self.emit(Op::Shift64 { left: name == "shl", signed, d, a, b });
                return Ok(true);
            }
            ("add", []) => K64::Add,
            ("sub", []) => K64::Sub,
            ("mul", ["lo"]) => K64::MulLo,
            ("mul", ["hi"]) => pick(K64::MulHiS, K64::MulHiU),
            ("mad", ["lo"]) => K64::MadLo,
            ("div", []) => pick(K64::DivS, K64::DivU),
            ("rem", []) => pick(K64::RemS, K64::RemU),
            ("min", []) => pick(K64::MinS, K64::MinU),
            ("max", []) => pick(K64::MaxS, K64::MaxU),
            ("abs", []) => K64::AbsS,
            ("neg", []) => K64::Neg,
            ("not", []) => K64::Not,
            ("and", []) => K64::And,
            ("or", []) => K64::Or,
            ("xor", []) => K64::Xor,
            _ => return Ok(false),
        };
        self.three64(k, &i.args)?;
        Ok(true)
    }
}
