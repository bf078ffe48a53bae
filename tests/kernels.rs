//! What nvcc and ptxas made of the kernels: registers, spills, the main loops' instructions, and what the PTX may not
//! hold. Owns no value that a kernel computes: those are in `cuda.rs`.

#[path = "common/ptxas.rs"]
mod ptxas;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ptxas::{Resources, resources};

/// Where build.rs left PTX, cubins and ptxas' words, and the folder of the compiler.
const KERNELS: &str = env!("PR_LSTM_KERNELS");
const TOOLS: &str = env!("PR_LSTM_CUDA_TOOLS");

/// The images, and those whose cells run on tensor cores.
const TENSOR_IMAGES: [&str; 5] = ["bf16", "f16", "split", "train_bf16", "train_split"];
const IMAGES: [&str; 10] =
    ["bf16", "f16", "split", "ffma", "train_bf16", "train_split", "train_ffma", "readout", "loss", "adam"];

/// Those of sm_90 alone, which are compiled for `sm_90a`.
const WGMMA_IMAGES: [&str; 3] = ["wgmma_bf16", "wgmma_f16", "wgmma_train_bf16"];
const WGMMA_CHIP: &str = "90a";

/// Share of HMMA among the instructions of an LSTM cell's main loop, at least. An RNN cell has a gate only, and no such share.
const HMMA_SHARE: f64 = 0.36;

fn read(file: &str) -> String {
    let path = Path::new(KERNELS).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The architectures that there are cubins for, from the names of the files that build.rs lists.
fn architectures() -> Vec<u32> {
    let list = read("kernels.rs");
    let archs: BTreeSet<u32> = list
        .split("\"bf16.sm_")
        .skip(1)
        .map(|rest| rest.split('.').next().and_then(|arch| arch.parse().ok()).expect("bf16.sm_NN.cubin"))
        .collect();
    assert!(!archs.is_empty(), "no cubin in {list}");
    archs.into_iter().collect()
}

/// The kernels of an image, as the host looks for them.
fn kernels_of(image: &str) -> BTreeSet<String> {
    let few = |names: &[&str]| names.iter().copied().map(String::from).collect();
    match image {
        "readout" => {
            return few(&["add", "readout", "readout_backward", "readout_reduce", "readout_wide"]);
        }
        "loss" => return few(&["cross_entropy", "cross_entropy_backward"]),
        "adam" => return few(&["gradient_norm", "update"]),
        _ => {}
    }
    if image.starts_with("wgmma_") {
        return stationary("wgmma").into();
    }
    if image.starts_with("train_") {
        return training_kernels_of(image);
    }
    let tiles: &[u32] = if ["split", "ffma"].contains(&image) { &[32, 64] } else { &[32, 64, 128] };
    let mut names: BTreeSet<String> = [
        "collect",
        "copy_states",
        "input",
        "pack",
        "read_states",
        "tokens_lstm",
        "tokens_rnn",
        "tree_lstm",
        "tree_rnn",
        "write_states",
    ]
    .map(String::from)
    .into();
    for layer in ["leaf", "merge", "unary"] {
        for cell in ["lstm", "rnn"] {
            names.extend(tiles.iter().map(|tile| format!("{layer}_{cell}_{tile}")));
        }
    }
    if tiles.len() == 3 {
        names.extend(stationary("256"));
    }
    names
}

/// Those whose weights stay, by what they multiply with.
fn stationary(product: &str) -> [String; 4] {
    ["merge_lstm", "merge_rnn", "unary_lstm", "unary_rnn"].map(|layer| format!("{layer}_{product}"))
}

/// All images with every architecture that they are compiled for, as the names of files have it.
fn cubins() -> Vec<(&'static str, String)> {
    let archs = architectures();
    let of_all = IMAGES.iter().flat_map(|&image| archs.iter().map(move |arch| (image, arch.to_string())));
    of_all.chain(WGMMA_IMAGES.map(|image| (image, WGMMA_CHIP.into()))).collect()
}

/// Those of a pass with a way back.
fn training_kernels_of(image: &str) -> BTreeSet<String> {
    let tiles: &[u32] = if image == "train_bf16" { &[32, 64, 128] } else { &[32, 64] };
    let alone = ["weight_gradient", "token_gradient", "reduce", "tokens_lstm", "tokens_rnn"];
    let mut names: BTreeSet<String> = alone.map(String::from).into();
    for layer in ["leaf", "merge", "unary"] {
        names.extend(["lstm", "rnn"].map(|cell| format!("gather_{layer}_{cell}")));
    }
    names.extend(
        ["tree", "tree_backward"].iter().flat_map(|tree| [format!("{tree}_lstm"), format!("{tree}_rnn")]),
    );
    for tile in tiles {
        for layer in ["leaf", "merge", "unary", "into_merge", "into_unary"] {
            names.extend(["lstm", "rnn"].map(|cell| format!("{layer}_{cell}_{tile}")));
        }
        names.extend(["into_places", "into_input"].map(|kernel| format!("{kernel}_{tile}")));
    }
    if tiles.len() == 3 {
        names.extend(stationary("256"));
    }
    names
}

/// No kernel spills a register or keeps anything in local memory, on any architecture, and no `wgmma` waits for the one before it;
/// the table of what they use.
#[test]
fn no_kernel_spills() {
    // Static shared memory only: a cell's ring is asked for at the launch.
    println!(
        "{:8} {:16} {:>6} {:>9} {:>6} {:>6} {:>6}",
        "image", "kernel", "arch", "registers", "shared", "stack", "spills"
    );
    let mut wrong = Vec::new();
    for (image, arch) in cubins() {
        let words = read(&format!("{image}.sm_{arch}.txt"));
        if words.contains("serialized") {
            wrong.push(words.clone());
        }
        let kernels = resources(&words);
        let names: BTreeSet<String> = kernels.keys().cloned().collect();
        assert_eq!(names, kernels_of(image), "the kernels of {image} on sm_{arch}");
        for (name, Resources { registers, shared, stack, spills }) in kernels {
            println!("{image:8} {name:16} {arch:>6} {registers:>9} {shared:>6} {stack:>6} {spills:>6}");
            assert!((1..=255).contains(&registers), "{image} {name}: {registers} registers were read");
            if stack + spills > 0 {
                wrong.push(format!("{image} {name} sm_{arch}: {stack} bytes of stack, {spills} of spills"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn words_of_ptxas_are_read() {
    let words = "ptxas info    : Compiling entry function 'a' for 'sm_80'\nptxas info    : Function properties for a\n    \
                 16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\nptxas info    : Used 255 registers, used 1 \
                 barriers, 24 bytes smem, 460 bytes cmem[0]\n";
    let expected = Resources { registers: 255, shared: 24, stack: 16, spills: 20 };
    assert_eq!(resources(words), BTreeMap::from([("a".to_string(), expected)]));
}

/// Opcodes of a PTX text, each with its line.
fn opcodes(ptx: &str) -> impl Iterator<Item = (usize, &str)> {
    ptx.lines().enumerate().filter_map(|(index, line)| {
        let line = line.trim_start();
        let line = if line.starts_with('@') { line.split_once(' ')?.1.trim_start() } else { line };
        let opcode = line.split(|c: char| c.is_whitespace() || c == ';').next()?;
        opcode.contains('.').then_some((index + 1, opcode))
    })
}

/// Whether ptxas may fuse it with a neighbour, or the chip may answer it from a cache that no store reaches.
fn forbidden(opcode: &str) -> bool {
    let parts: Vec<&str> = opcode.split('.').collect();
    let has = |part: &str| parts.contains(&part);
    let bare = ["mul", "add", "sub"].contains(&parts[0])
        && (has("f32") || has("f32x2"))
        && !["rn", "rz", "rm", "rp"].iter().any(|rounding| has(rounding));
    bare || (parts[0] == "ld" && has("global") && has("nc"))
}

/// A bare `mul.f32` beside an `add.f32` becomes an FMA where ptxas likes; `ld.global.nc` may read what was there before
/// the launch.
#[test]
fn ptx_holds_nothing_that_is_forbidden() {
    for (opcode, expected) in [
        ("mul.f32", true),
        ("add.ftz.f32", true),
        ("sub.f32", true),
        ("add.rn.f32", false),
        ("fma.rn.f32", false),
        ("mul.lo.u32", false),
        ("mul.wide.u32", false),
        ("ld.global.nc.v4.f32", true),
        ("ld.global.v4.f32", false),
    ] {
        assert_eq!(forbidden(opcode), expected, "{opcode}");
    }
    assert_eq!(opcodes("\t@%p1 add.f32 %f1, %f2, %f3;").collect::<Vec<_>>(), [(1, "add.f32")]);
    let images = IMAGES.iter().flat_map(|image| ["80", "90"].map(|base| (*image, base)));
    for (image, base) in images.chain(WGMMA_IMAGES.map(|image| (image, WGMMA_CHIP))) {
        let file = format!("{image}.compute_{base}.ptx");
        let ptx = read(&file);
        assert!(ptx.contains(&format!("\n.target sm_{base}\n")), "{file}");
        for name in kernels_of(image) {
            assert!(ptx.contains(&format!(".entry {name}(")), "{file} has {name}");
            // Every launch may begin early there: who does not wait reads what is not yet written.
            let body = ptx.split(&format!(".entry {name}(")).nth(1).unwrap_or_default();
            let body = body.split(".entry ").next().unwrap_or_default();
            assert_eq!(body.contains("griddepcontrol.wait;"), base != "80", "{file}: {name}");
            let (before, _) = body.split_once("griddepcontrol.wait;").unwrap_or_default();
            let writes = |opcode: &str| {
                ["st.global", "st.volatile.global", "atom.", "red."]
                    .iter()
                    .any(|start| opcode.starts_with(start))
            };
            let early: Vec<_> = opcodes(before).filter(|(_, opcode)| writes(opcode)).collect();
            assert!(early.is_empty(), "{file}: {name} writes before it waits: {early:?}");
        }
        assert!(
            opcodes(&ptx).any(|(_, opcode)| {
                ["fma.rn.f32", "add.rn.f32"].contains(&opcode) || opcode.starts_with("mma.sync")
            }),
            "{file}"
        );
        let wrong: Vec<_> = opcodes(&ptx).filter(|(_, opcode)| forbidden(opcode)).take(10).collect();
        assert!(wrong.is_empty(), "{file}, line and instruction: {wrong:?}");
    }
}

/// A kernel's machine code: opcodes, and for branches the index that they go to.
#[derive(Default)]
struct Code {
    opcodes: Vec<String>,
    branches: Vec<(usize, String)>,
    labels: BTreeMap<String, usize>,
}

/// What `nvdisasm -c` prints, by kernel.
fn disassembly(text: &str) -> BTreeMap<String, Code> {
    let mut kernels = BTreeMap::<String, Code>::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(label) = line.strip_suffix(':') {
            match label.strip_prefix(".text.") {
                Some(kernel) => name = kernel.into(),
                None => {
                    let code = kernels.entry(name.clone()).or_default();
                    code.labels.insert(label.trim().into(), code.opcodes.len());
                }
            }
        } else if let Some((_, instruction)) =
            line.trim_start().strip_prefix("/*").and_then(|l| l.split_once("*/"))
        {
            let mut words = instruction.split_whitespace().skip_while(|word| word.starts_with('@'));
            let Some(opcode) = words.next().filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()))
            else {
                continue;
            };
            let code = kernels.entry(name.clone()).or_default();
            if opcode.starts_with("BRA") {
                let target = instruction.split("`(").nth(1).and_then(|rest| rest.split(')').next());
                code.branches.push((code.opcodes.len(), target.unwrap_or_default().into()));
            }
            code.opcodes.push(opcode.trim_end_matches(';').into());
        }
    }
    kernels
}

/// The loops that multiply: from the target of a backward branch to the branch, those with such an instruction in them.
fn loops<'a>(code: &'a Code, multiplies: &str) -> Vec<&'a [String]> {
    code.branches
        .iter()
        .filter_map(|(at, target)| {
            code.labels.get(target).filter(|start| *start <= at).map(|start| (*start, *at))
        })
        .map(|(start, end)| &code.opcodes[start..=end])
        .filter(|body| body.iter().any(|opcode| opcode.starts_with(multiplies)))
        .collect()
}

/// How many instructions of a loop are one of these.
fn count(body: &[String], names: &[&str]) -> usize {
    body.iter().filter(|opcode| names.contains(&opcode.split('.').next().unwrap())).count()
}

/// The disassembler; none, and a word, where there is none.
fn nvdisasm() -> Option<PathBuf> {
    let nvdisasm = Path::new(TOOLS).join("nvdisasm");
    if !nvdisasm.is_file() {
        println!("skipped: no nvdisasm in {TOOLS} (scripts/setup-nvcc brings it)");
    }
    nvdisasm.is_file().then_some(nvdisasm)
}

/// The kernels of a cubin.
fn disassembled(nvdisasm: &Path, image: &str, arch: &str) -> BTreeMap<String, Code> {
    let cubin = Path::new(KERNELS).join(format!("{image}.sm_{arch}.cubin"));
    let output = Command::new(nvdisasm).arg("-c").arg(&cubin).output().expect("nvdisasm runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    disassembly(&String::from_utf8_lossy(&output.stdout))
}

/// Two loops of a kernel that multiplies by `wgmma`, that of the first tile and that of all others: four products of 16 k, which
/// read shared memory by themselves, and around them what brings the next stage.
#[test]
fn loops_of_wgmma_bring_and_multiply() {
    let Some(nvdisasm) = nvdisasm() else { return };
    for image in WGMMA_IMAGES {
        let mut kernels = disassembled(&nvdisasm, image, WGMMA_CHIP);
        kernels.retain(|name, _| !name.is_empty());
        assert_eq!(kernels.keys().cloned().collect::<BTreeSet<_>>(), kernels_of(image));
        for (name, code) in kernels {
            let mut loops = loops(&code, "HGMMA");
            loops.sort_by_key(|body| body.len());
            loops.truncate(2); // the others hold one of them, and code that lies elsewhere
            let lengths: Vec<_> = loops.iter().map(|body| body.len()).collect();
            println!("{image:16} {name:16} instructions of the loops: {lengths:?}");
            assert_eq!(loops.len(), 2, "{image} {name}");
            for body in loops {
                // They are begun and waited for together.
                let counts = ["HGMMA", "WARPGROUP"].map(|name| count(body, &[name]));
                assert_eq!(counts, [4, 2], "{image} {name}: {body:?}");
                assert!(count(body, &["LDGSTS"]) >= 4, "{image} {name}: {body:?}");
                let others = ["HMMA", "LDSM", "LDL", "STL", "FFMA", "FFMA2", "MUFU"];
                assert_eq!(count(body, &others), 0, "{image} {name}: {body:?}");
            }
        }
    }
}

/// The main loops of merge and unary, forward and backward, and of the weights' gradient, on tensor cores, are made of
/// tensor work: nothing in local memory, no FFMA and no special function, and but for RNN cells at least 36 % HMMA in
/// merge and unary of 128 rows. The exceptions are those that an H200 was faster with: tiles of 64 rows, half of whose loop
/// brings what it multiplies, 31 %; products backward, of 64 columns and not 128, 30 and 21 %; those of a walk back, of 32
/// columns, 30 %; the weights' gradient, 27 %,
/// whose loop holds the sum of dz too; and tiles of 32 rows, for steps that no number of instructions fills a chip with.
#[test]
fn main_loops_multiply() {
    let Some(nvdisasm) = nvdisasm() else { return };
    println!(
        "{:8} {:16} {:>6} {:>12} {:>6} {:>6}",
        "image", "kernel", "arch", "instructions", "HMMA", "share"
    );
    let mut wrong = Vec::new();
    for image in TENSOR_IMAGES {
        for arch in architectures() {
            let kernels = disassembled(&nvdisasm, image, &arch.to_string());
            let multiplies = |name: &str| {
                ["merge_", "unary_", "into_", "weight_gradient", "tree_"]
                    .iter()
                    .any(|start| name.starts_with(start))
            };
            for (name, code) in kernels.iter().filter(|(name, _)| multiplies(name)) {
                let loops = loops(code, "HMMA");
                // The largest has everything; the share is that of the innermost, which in 16 bit is the same.
                let most = loops.iter().max_by_key(|body| body.len());
                let main = *most.unwrap_or_else(|| panic!("{image} {name} sm_{arch}: no loop with an HMMA"));
                let inner = *loops.iter().min_by_key(|body| body.len()).unwrap();
                // Around it: the windows of rows, whose numbers are found by division, and their sums; the gates of a tree, and of
                // tile after tile.
                let around = name == "weight_gradient" || name.starts_with("tree_") || name.ends_with("_256");
                let main = if around { inner } else { main };
                assert!(
                    image.ends_with("split") || inner.len() == main.len(),
                    "{image} {name}: the copies count too"
                );
                let hmma = count(inner, &["HMMA"]);
                let share = hmma as f64 / inner.len() as f64;
                println!(
                    "{image:8} {name:16} {arch:>6} {:>6} {:>6} {hmma:>6} {:>5.1}%",
                    main.len(),
                    inner.len(),
                    100.0 * share
                );
                let mut check = |what: &str, names: &[&str]| {
                    let found = count(main, names);
                    if found > 0 {
                        wrong.push(format!("{image} {name} sm_{arch}: {found} of {what} in the main loop"));
                    }
                };
                check("local memory", &["LDL", "STL"]);
                check("FFMA", &["FFMA", "FFMA2"]);
                check("special functions", &["MUFU"]);
                let least = match name.as_str() {
                    "weight_gradient" => 0.27,
                    name if name.starts_with("tree_backward") => 0.30,
                    name if name.starts_with("into_") && name.ends_with("_64") => 0.21,
                    name if name.starts_with("into_") => 0.30,
                    name if name.ends_with("_64") => 0.31,
                    _ => HMMA_SHARE,
                };
                if !name.contains("_rnn") && !name.ends_with("_32") && share < least {
                    wrong.push(format!(
                        "{image} {name} sm_{arch}: HMMA are {:.1} % of the main loop",
                        100.0 * share
                    ));
                }
            }
            let merges = kernels.keys().filter(|name| name.starts_with("merge_")).count();
            let tiles = if image.ends_with("split") { 2 } else { 4 };
            assert_eq!(merges, 2 * tiles, "{image} sm_{arch}: merges disassembled");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn loops_are_found_in_a_disassembly() {
    let text = ".text.k:\n        /*0000*/                   MOV R1, c[0x0][0x28] ;\n.L_x_1:\n        \
                /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;\n        \
                /*0020*/              @!P0 STL [R1], R2 ;\n        /*0030*/               @P0 BRA `(.L_x_1) ;\n        \
                /*0040*/                   BRA `(.L_x_2);\n.L_x_2:\n        /*0050*/                   EXIT ;\n";
    let kernels = disassembly(text);
    let found = loops(&kernels["k"], "HMMA");
    assert_eq!(found, [["HMMA.16816.F32.BF16", "STL", "BRA"]]);
    assert_eq!((count(found[0], &["HMMA"]), count(found[0], &["STL"]), count(found[0], &["LDL"])), (1, 1, 0));
}
