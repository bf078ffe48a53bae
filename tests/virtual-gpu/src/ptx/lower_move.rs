//! Lowers what computes nothing new: moves, packs, comparisons, conversions.

use super::ir::{Bool, Class, Cmp, K32, K64, Num, Op, Round, Slot};
use super::lower::{Lower, Result};
use super::parse::{Arg, Instruction};

/// How `rn`, `rzi` and their like round.
pub(super) fn round(part: &str) -> Option<Round> {
    Some(match part {
        "rn" | "rni" => Round::Nearest,
        "rz" | "rzi" => Round::Zero,
        "rm" | "rmi" => Round::Down,
        "rp" | "rpi" => Round::Up,
        _ => return None,
    })
}

/// An immediate of 16 bits is kept zero extended, as registers of 16 bits are.
pub(super) fn narrow(num: Num, arg: &Arg) -> Arg {
    match arg {
        Arg::Int(v) if num.size() == 2 => Arg::Int(i128::from(*v as u16)),
        arg => arg.clone(),
    }
}

fn compare(word: &str) -> Option<(Cmp, bool)> {
    // The second: an unsigned comparison whatever the type says (lo, ls, hi, hs).
    Some(match word {
        "eq" => (Cmp::Eq, false),
        "ne" => (Cmp::Ne, false),
        "lt" => (Cmp::Lt, false),
        "le" => (Cmp::Le, false),
        "gt" => (Cmp::Gt, false),
        "ge" => (Cmp::Ge, false),
        "lo" => (Cmp::Lt, true),
        "ls" => (Cmp::Le, true),
        "hi" => (Cmp::Gt, true),
        "hs" => (Cmp::Ge, true),
        "equ" => (Cmp::Equ, false),
        "neu" => (Cmp::Neu, false),
        "ltu" => (Cmp::Ltu, false),
        "leu" => (Cmp::Leu, false),
        "gtu" => (Cmp::Gtu, false),
        "geu" => (Cmp::Geu, false),
        "num" => (Cmp::Num, false),
        "nan" => (Cmp::Nan, false),
        _ => return None,
    })
}

impl Lower<'_> {
    pub(super) fn mov(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let [to, from] = &i.args[..] else { return Err("two operands were expected".into()) };
        if parts[1] == "pred" {
            let d = self.write(Class::Pred, to)?;
            if let Arg::Int(v) = from {
                self.emit(Op::PredConst { d, value: *v != 0 });
            } else {
                let (a, not_a) = self.pred(from)?;
                let k = if not_a { Bool::Not } else { Bool::Mov };
                self.emit(Op::Pred { k, d, a, b: a, not_a: false, not_b: false });
            }
            return Ok(());
        }
        let num = Num::parse(parts[1]).ok_or("type not supported")?;
        match (to, from) {
            (Arg::Vector(to), from) => self.split(num, to, from),
            (to, Arg::Vector(from)) => self.pack(num, to, from),
            _ => {
                let class = num.class();
                let d = self.write(class, to)?;
                let s = self.read(class, &narrow(num, from))?;
                match class {
                    Class::R64 => self.a64(K64::Mov, d, [s, 0, 0]),
                    _ => self.a32(K32::Mov, d, [s, 0, 0]),
                }
                Ok(())
            }
        }
    }

    fn split(&mut self, num: Num, to: &[Arg], from: &Arg) -> Result<()> {
        match (num.size(), to) {
            (4, [lo, hi]) => {
                let a = self.read32(from)?;
                let (lo, hi) = (self.write(Class::R32, lo)?, self.write(Class::R32, hi)?);
                self.emit(Op::Split16 { lo, hi, a });
            }
            (8, [lo, hi]) => {
                let a = self.read64(from)?;
                let (lo, hi) = (self.write(Class::R32, lo)?, self.write(Class::R32, hi)?);
                self.emit(Op::Split32 { lo, hi, a });
            }
            (8, [w, x, y, z]) => {
                let a = self.read64(from)?;
                let (l, h) = (self.fresh(Class::R32), self.fresh(Class::R32));
                let mut to = [0; 4];
                for (slot, arg) in to.iter_mut().zip([w, x, y, z]) {
                    *slot = self.write(Class::R32, arg)?;
                }
                self.emit(Op::Split32 { lo: l, hi: h, a });
                self.emit_silent(Op::Split16 { lo: to[0], hi: to[1], a: l });
                self.emit_silent(Op::Split16 { lo: to[2], hi: to[3], a: h });
            }
            _ => return Err("a vector of a kind that is not supported".into()),
        }
        Ok(())
    }

    fn pack(&mut self, num: Num, to: &Arg, from: &[Arg]) -> Result<()> {
        match (num.size(), from) {
            (4, [lo, hi]) => {
                let d = self.write(Class::R32, to)?;
                let (lo, hi) = (self.read32(lo)?, self.read32(hi)?);
                self.emit(Op::Pack16 { d, lo, hi });
            }
            (8, [lo, hi]) => {
                let d = self.write(Class::R64, to)?;
                let (lo, hi) = (self.read32(lo)?, self.read32(hi)?);
                self.emit(Op::Pack32 { d, lo, hi });
            }
            (8, [w, x, y, z]) => {
                let d = self.write(Class::R64, to)?;
                let (l, h) = (self.fresh(Class::R32), self.fresh(Class::R32));
                let s = [self.read32(w)?, self.read32(x)?, self.read32(y)?, self.read32(z)?];
                self.emit(Op::Pack16 { d: l, lo: s[0], hi: s[1] });
                self.emit_silent(Op::Pack16 { d: h, lo: s[2], hi: s[3] });
                self.emit_silent(Op::Pack32 { d, lo: l, hi: h });
            }
            _ => return Err("a vector of a kind that is not supported".into()),
        }
        Ok(())
    }

    pub(super) fn setp(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let (d, other) = match &i.args[0] {
            Arg::Pair(d, other) => (self.write(Class::Pred, d)?, Some(self.write(Class::Pred, other)?)),
            d => (self.write(Class::Pred, d)?, None),
        };
        self.compare_into(d, other, &i.args[1..], parts)
    }

    pub(super) fn compare_into(
        &mut self,
        d: Slot,
        other: Option<Slot>,
        args: &[Arg],
        parts: &[&str],
    ) -> Result<()> {
        let mut num = Num::parse(parts[parts.len() - 1]).ok_or("type not supported")?;
        let (mut cmp, mut kind, mut ftz) = (None, None, false);
        for part in &parts[..parts.len() - 1] {
            match *part {
                "and" if kind.is_none() => kind = Some(Bool::And),
                "or" if kind.is_none() => kind = Some(Bool::Or),
                "xor" if kind.is_none() => kind = Some(Bool::Xor),
                "ftz" if num == Num::F32 => ftz = true,
                part => {
                    let this = compare(part).ok_or_else(|| format!("comparison '{part}'"))?;
                    if cmp.replace(this).is_some() {
                        return Err("two comparisons".into());
                    }
                }
            }
        }
        let (cmp, unsigned) = cmp.ok_or("no comparison")?;
        if unsigned {
            num = match num {
                Num::S16 => Num::U16,
                Num::S32 => Num::U32,
                Num::S64 => Num::U64,
                n => n,
            };
        }
        if matches!(num, Num::F16x2 | Num::BF16x2) {
            return Err("a comparison of pairs is not supported".into());
        }
        let (a, b) = (narrow(num, &args[0]), narrow(num, &args[1]));
        let (a, b) = (self.read(num.class(), &a)?, self.read(num.class(), &b)?);
        let join = match (kind, args.get(2)) {
            (Some(kind), Some(arg)) => {
                let (p, negated) = self.pred(arg)?;
                Some((kind, p, negated))
            }
            (None, None) => None,
            _ => return Err("a boolean operation without its operand".into()),
        };
        self.emit(Op::Setp { cmp, num, ftz, d, other, a, b, join });
        Ok(())
    }

    pub(super) fn cvt(&mut self, i: &Instruction, parts: &[&str]) -> Result<()> {
        let [front @ .., to, from] = parts else { return Err("types".into()) };
        let to = Num::parse(to).ok_or_else(|| format!("type '{to}' is not supported"))?;
        let from = Num::parse(from).ok_or_else(|| format!("type '{from}' is not supported"))?;
        let (mut r, mut ftz, mut sat, mut relu, mut to_integer) =
            (Round::Nearest, false, false, false, false);
        let mut rounded = false;
        for part in front {
            match *part {
                "ftz" => ftz = true,
                "sat" => sat = true,
                "relu" => relu = true,
                part if rounded => return Err(format!("modifier '.{part}' is not supported")),
                part => {
                    r = round(part).ok_or_else(|| format!("modifier '.{part}' is not supported"))?;
                    rounded = true;
                    to_integer |= part.ends_with('i');
                }
            }
        }
        if !rounded && !to.float() {
            r = Round::Zero;
        }
        let pairs = |num| matches!(num, Num::F16x2 | Num::BF16x2);
        let small = |num| matches!(num, Num::F16 | Num::BF16) || pairs(num);
        // Rounding to integers is for integers, and for floats that keep their size.
        let integral = if to.float() { from.float() && to.size() == from.size() } else { from.float() };
        let rounds_well = if to_integer { integral } else { to.float() };
        if (rounded && !rounds_well)
            || (ftz && from != Num::F32 && to != Num::F32)
            || (relu && !(from == Num::F32 && small(to)))
            || (relu && sat)
            || pairs(from)
            || (pairs(to) && (from != Num::F32 || !rounded || to_integer || ftz || sat))
        {
            return Err("instruction not supported".into());
        }
        if pairs(to) {
            let [d, hi, lo] = &i.args[..] else { return Err("three operands were expected".into()) };
            let d = self.write(Class::R32, d)?;
            let (hi, lo) = (self.read32(hi)?, self.read32(lo)?);
            self.emit(Op::CvtPack { d, hi, lo, to, round: r, relu });
            return Ok(());
        }
        let [d, a] = &i.args[..] else { return Err("two operands were expected".into()) };
        // Integer registers may be wider than the type that is read or written.
        let a = match self.class_of(a) {
            Some(Class::R64) if from.class() == Class::R32 => {
                let wide = self.read64(a)?;
                let (lo, hi) = (self.fresh(Class::R32), self.fresh(Class::R32));
                self.emit_silent(Op::Split32 { lo, hi, a: wide });
                lo
            }
            _ => self.read(from.class(), a)?,
        };
        let wide = self.class_of(d) == Some(Class::R64) && to.class() == Class::R32;
        let slot = if wide { self.fresh(Class::R32) } else { self.write(to.class(), d)? };
        self.emit(Op::Cvt { d: slot, a, to, from, round: r, to_integer, ftz, sat, relu });
        if wide {
            let (to, from) = if to.signed() { (Num::S64, Num::S32) } else { (Num::U64, Num::U32) };
            let d = self.write(Class::R64, d)?;
            self.emit_silent(Op::Cvt {
                d,
                a: slot,
                to,
                from,
                round: Round::Zero,
                to_integer: false,
                ftz: false,
                sat: false,
                relu: false,
            });
        }
        Ok(())
    }
}
