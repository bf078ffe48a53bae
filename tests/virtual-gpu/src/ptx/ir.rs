//! The compact form of a kernel: operands are slots of a warp's register planes, names are gone.

/// An index into one of a warp's register planes.
pub type Slot = u32;

/// Which plane a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 32 bits a lane; 16-bit registers live here too, zero extended.
    R32,
    /// 64 bits a lane.
    R64,
    /// One bit a lane.
    Pred,
}

/// The type of a number in memory or in a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Num {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    BF16,
    F32,
    F64,
    F16x2,
    BF16x2,
}

impl Num {
    /// Reads `u32`, `.b16` and their like; untyped bits count as unsigned.
    pub fn parse(text: &str) -> Option<Num> {
        Some(match text.trim_start_matches('.') {
            "u8" | "b8" => Num::U8,
            "s8" => Num::S8,
            "u16" | "b16" => Num::U16,
            "s16" => Num::S16,
            "u32" | "b32" => Num::U32,
            "s32" => Num::S32,
            "u64" | "b64" => Num::U64,
            "s64" => Num::S64,
            "f16" => Num::F16,
            "bf16" => Num::BF16,
            "f32" => Num::F32,
            "f64" => Num::F64,
            "f16x2" => Num::F16x2,
            "bf16x2" => Num::BF16x2,
            _ => return None,
        })
    }

    /// Bytes.
    pub fn size(self) -> usize {
        match self {
            Num::U8 | Num::S8 => 1,
            Num::U16 | Num::S16 | Num::F16 | Num::BF16 => 2,
            Num::U32 | Num::S32 | Num::F32 | Num::F16x2 | Num::BF16x2 => 4,
            Num::U64 | Num::S64 | Num::F64 => 8,
        }
    }

    /// The plane of a register that holds it.
    pub fn class(self) -> Class {
        if self.size() == 8 { Class::R64 } else { Class::R32 }
    }

    /// Whether it is an integer with a sign.
    pub fn signed(self) -> bool {
        matches!(self, Num::S8 | Num::S16 | Num::S32 | Num::S64)
    }

    /// Whether it is a floating point type.
    pub fn float(self) -> bool {
        matches!(self, Num::F16 | Num::BF16 | Num::F32 | Num::F64 | Num::F16x2 | Num::BF16x2)
    }
}

/// How a conversion or an operation rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
}

/// An operation on 32-bit planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum K32 {
    Mov,
    Add,
    Sub,
    MulLo,
    MulHiS,
    MulHiU,
    Mul24S,
    Mul24U,
    MadLo,
    MadHiS,
    MadHiU,
    Mad24S,
    Mad24U,
    SadS,
    SadU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    AbsS,
    Neg,
    Not,
    Cnot,
    And,
    Or,
    Xor,
    Shl,
    ShrS,
    ShrU,
    Lop3(u8),
    ShfLWrap,
    ShfLClamp,
    ShfRWrap,
    ShfRClamp,
    Prmt,
    PrmtMode(u8),
    Popc,
    Clz,
    Brev,
    BfindU,
    BfindS,
    BfindShiftU,
    BfindShiftS,
    BfeU,
    BfeS,
    Add16,
    Sub16,
    MulLo16,
    MulHiS16,
    MulHiU16,
    MadLo16,
    MulWideS16,
    MulWideU16,
    MadWideS16,
    MadWideU16,
    DivS16,
    DivU16,
    RemS16,
    RemU16,
    MinS16,
    MinU16,
    MaxS16,
    MaxU16,
    Shl16,
    ShrS16,
    ShrU16,
    Neg16,
    Not16,
    AbsS16,
    Dp4aS,
    Dp4aU,
    FAdd(Round),
    FSub(Round),
    FMul(Round),
    FFma(Round),
    FDiv(Round),
    FDivApprox,
    FDivFull,
    FMin,
    FMax,
    FMinNan,
    FMaxNan,
    FAbs,
    FNeg,
    FCopysign,
    FRcp(Round),
    FRcpApprox,
    FSqrt(Round),
    FSqrtApprox,
    FRsqrtApprox,
    FSin,
    FCos,
    FLg2,
    FEx2,
    FTanh,
    FTestp(u8),
    Half(HalfOp, HalfType),
    HalfTanh(HalfType),
    HalfEx2(HalfType),
}

/// An operation on 16-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    FmaRelu,
    Min,
    Max,
    MinNan,
    MaxNan,
    Neg,
    Abs,
}

/// Which 16-bit float, one or two in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HalfType {
    F16,
    F16x2,
    BF16,
    BF16x2,
}

/// An operation on 64-bit planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum K64 {
    Mov,
    Add,
    Sub,
    MulLo,
    MulHiS,
    MulHiU,
    MadLo,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    AbsS,
    Neg,
    Not,
    And,
    Or,
    Xor,
    Brev,
    DAdd,
    DSub,
    DMul,
    DFma,
    DDiv,
    DMin,
    DMax,
    DAbs,
    DNeg,
    DRcp,
    DSqrt,
    DCopysign,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// A boolean operation on predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bool {
    And,
    Or,
    Xor,
    Not,
    Mov,
}

/// A predicate and whether it is negated.
pub type Guard = Option<(Slot, bool)>;

/// What an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The register that holds the base.
    pub base: Slot,
    /// Its plane.
    pub wide: bool,
    /// Bytes added to it.
    pub offset: i64,
}

/// How strongly an access orders memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not at all.
    Weak,
    /// `ld.global.nc`: the memory must not change while the kernel runs.
    Constant,
    /// Volatile or relaxed: indivisible, orders nothing.
    Relaxed,
    /// `.acquire`.
    Acquire,
    /// `.release`.
    Release,
    /// `.acq_rel`.
    AcquireRelease,
}

/// What an atomic operation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomicOp {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    Inc,
    Dec,
    Exch,
    Cas,
}

/// Whom a shuffle reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// What a vote answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// A block barrier's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BarKind {
    Sync,
    Arrive,
    Popc,
    And,
    Or,
}

/// An operation of the machine.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Op {
    A32 {
        k: K32,
        ftz: bool,
        sat: bool,
        d: Slot,
        s: [Slot; 3],
    },
    A64 {
        k: K64,
        d: Slot,
        s: [Slot; 3],
    },
    Wide {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Shift64 {
        left: bool,
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Bits64 {
        k: K32,
        d: Slot,
        a: Slot,
    },
    Bfe64 {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Bfi32 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        e: Slot,
    },
    Bfi64 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        e: Slot,
    },
    Cvt {
        d: Slot,
        a: Slot,
        to: Num,
        from: Num,
        round: Round,
        to_integer: bool,
        ftz: bool,
        sat: bool,
        relu: bool,
    },
    CvtPack {
        d: Slot,
        hi: Slot,
        lo: Slot,
        to: Num,
        round: Round,
        relu: bool,
    },
    Pack16 {
        d: Slot,
        lo: Slot,
        hi: Slot,
    },
    Split16 {
        lo: Slot,
        hi: Slot,
        a: Slot,
    },
    Pack32 {
        d: Slot,
        lo: Slot,
        hi: Slot,
    },
    Split32 {
        lo: Slot,
        hi: Slot,
        a: Slot,
    },
    Setp {
        cmp: Cmp,
        num: Num,
        ftz: bool,
        d: Slot,
        other: Option<Slot>,
        a: Slot,
        b: Slot,
        join: Option<(Bool, Slot, bool)>,
    },
    Select {
        class: Class,
        d: Slot,
        a: Slot,
        b: Slot,
        p: Slot,
    },
    Pred {
        k: Bool,
        d: Slot,
        a: Slot,
        b: Slot,
        not_a: bool,
        not_b: bool,
    },
    PredConst {
        d: Slot,
        value: bool,
    },
    Param {
        num: Num,
        d: Slot,
        offset: u32,
    },
    Load {
        space: super::parse::Space,
        num: Num,
        lanes: u8,
        d: [Slot; 4],
        address: Address,
        order: Order,
    },
    Store {
        space: super::parse::Space,
        num: Num,
        lanes: u8,
        s: [Slot; 4],
        address: Address,
        order: Order,
    },
    Atomic {
        space: super::parse::Space,
        op: AtomicOp,
        num: Num,
        d: Option<Slot>,
        address: Address,
        b: Slot,
        c: Slot,
        order: Order,
    },
    CpAsync {
        to: Address,
        from: Address,
        size: u8,
        source: Option<Slot>,
        skip: Guard,
    },
    CpAsyncCommit,
    CpAsyncWait {
        keep: u32,
        all: bool,
    },
    LdMatrix {
        d: [Slot; 4],
        count: u8,
        trans: bool,
        address: Address,
    },
    Mma {
        half: bool,
        k16: bool,
        d: [Slot; 4],
        a: [Slot; 4],
        b: [Slot; 2],
        c: [Slot; 4],
    },
    Wgmma {
        half: bool,
        d: Vec<Slot>,
        a: Slot,
        b: Slot,
        adds: (Slot, bool),
        trans: [bool; 2],
    },
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        keep: u32,
    },
    ProxyFence,
    Shfl {
        mode: ShflMode,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    Vote {
        mode: VoteMode,
        d: Slot,
        p: Slot,
        negated: bool,
        members: Slot,
    },
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: Option<Slot>,
        a: Slot,
        members: Slot,
    },
    Redux {
        op: AtomicOp,
        signed: bool,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    ActiveMask {
        d: Slot,
    },
    Clock {
        d: Slot,
        wide: bool,
    },
    WarpBarrier {
        members: Slot,
    },
    Barrier {
        kind: BarKind,
        id: Slot,
        count: Option<Slot>,
        d: Slot,
        p: Slot,
        negated: bool,
    },
    Fence,
    Yield,
    Depend,
    Nop,
    Jump {
        to: u32,
    },
    JumpTable {
        index: Slot,
        to: Vec<u32>,
    },
    Exit,
    Trap {
        what: String,
    },
}

/// An instruction of the machine.
#[derive(Clone, Debug)]
pub struct Code {
    /// What it does.
    pub op: Op,
    /// For which lanes.
    pub guard: Guard,
    /// Its line in the PTX.
    pub line: u32,
    /// Whether it stands for an instruction of the PTX, or was put in to keep blocks together.
    pub counted: bool,
    /// Whether a wait for device memory begins with it.
    pub trip: bool,
    /// The defined mask of the guard, if that may be read before it is written; else `u32::MAX`.
    pub guard_check: u32,
    /// Registers that may be read before they are written, as indices of defined masks, in [`Kernel::checks`].
    pub checks: (u32, u32),
    /// Registers whose defined masks this writes, likewise.
    pub marks: (u32, u32),
    /// Accumulators of `wgmma` that an instruction of another kind reads (0) and writes (1), likewise.
    pub held: (u32, u32),
}

impl Code {
    /// An instruction of the PTX that nothing was found out about yet.
    pub fn new(op: Op, guard: Guard, line: u32) -> Code {
        Code {
            op,
            guard,
            line,
            counted: true,
            trip: false,
            guard_check: u32::MAX,
            checks: (0, 0),
            marks: (0, 0),
            held: (0, 0),
        }
    }
}

/// A value that a launch, a block or a lane puts into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Nwarp,
    Smid,
    Nsmid,
    Gridid,
    LaneMask(u8),
    DynamicShared,
    DynamicBase,
    TotalShared,
    Zero,
}

/// A kernel ready to run.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// The PTX it comes from, for messages.
    pub text: std::sync::Arc<str>,
    /// Its code.
    pub code: Vec<Code>,
    /// Slots in each plane: 32-bit, 64-bit, predicates.
    pub planes: [u32; 3],
    /// 32-bit constants.
    pub constants32: Vec<(Slot, u32)>,
    /// 64-bit constants.
    pub constants64: Vec<(Slot, u64)>,
    /// Slots that a launch, block or lane fills in.
    pub specials: Vec<(Slot, Special)>,
    /// Bytes of arguments.
    pub param_size: usize,
    /// Offset and size of each argument.
    pub params: Vec<(usize, usize)>,
    /// Bytes of shared memory declared with a size.
    pub static_shared: usize,
    /// Alignment wanted of the dynamic shared memory that follows.
    pub shared_align: usize,
    /// Bytes of local memory a thread.
    pub local: usize,
    /// Threads a block at most, if the kernel says so.
    pub max_threads: Option<u32>,
    /// Lists that `Code::checks`, `Code::marks` and `Code::held` point into.
    pub checks: Vec<u32>,
    /// Masks that are full from the start: constants.
    pub defined_from_start: Vec<u32>,
    /// Masks of defined lanes that a warp keeps.
    pub tracked: u32,
    /// Whether it has products of warpgroups.
    pub products: bool,
    /// Whether results depend on the order of blocks (an atomic's old value, a float sum).
    pub ordered: bool,
    /// The first multiplication or addition that a compiler may contract: line and opcode.
    pub bare_float: Option<(u32, String)>,
    /// A rough count of registers a thread, as the driver is asked for one.
    pub registers: u32,
}
