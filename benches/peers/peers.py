#!/usr/bin/env python3
"""The peers in Python, at the cases that `pr-lstm bench --list --json` prints to stdin: the same JSON lines to stdout.

PyTorch: its own LSTM, in f32 and bf16 as oneDNN computes it, and in f32 by PyTorch's own loop (`torch.compile` leaves
an LSTM as it is). JAX: the PR-LSTM of the paper, `associative_scan` of the gated merge and its unary layer, written from
the equations and jitted, for all outputs and for the last; what the last does not need is XLA's to drop. Input is
one-hot, [B, T, D]: no peer has a look-up. None computes a read-out in a forward pass; this crate does, so it does a
little more.

Threads are pinned to --threads. A peer that cannot be imported, or a contender that fails, is left out with a note.
`--check FILES` compares JAX's cell with golden files of `tests/golden/cell` instead.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time

SEED = 1
OUTPUT = 2  # logits of a training step


def say(**record):
    print(json.dumps(record), flush=True)


def note(name, text):
    say(note=name, text=" ".join(str(text).split())[:300])


def one_hot(numpy, case):
    """Random tokens, [B, T], as [B, T, D] of f32; and the parity of each sequence's sum, [B]."""
    tokens = numpy.random.default_rng(SEED).integers(0, case["input"], (case["batch"], case["time"]))
    return numpy.eye(case["input"], dtype=numpy.float32)[tokens], tokens.sum(axis=1) % OUTPUT


def repeated(run, seconds):
    """Runs for so long, once at least: how often, and how long that took."""
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        run()
        count += 1
    return count, time.perf_counter() - start


def measure(works, samples, small, threads):
    """Times works sample by sample in turn; each is (case, contender, GFLOP or None, units, run)."""
    ready = []
    for case, contender, gflop, units, run in works:
        try:
            run()  # compiles
            count, elapsed = repeated(run, 0 if small else 0.2)
        except Exception as error:  # whatever a peer may throw
            note(f"left out: {contender} at {case['case']}", f"{type(error).__name__}: {error}")
            continue
        repeats = 1 if small else max(1, round(0.005 * count / elapsed))
        ready.append((case, contender, gflop, units, run, repeats, []))
    start = time.perf_counter()
    for sample in range(1 if small else samples):
        if sample >= 3 and time.perf_counter() - start > 10:
            break
        for _, _, _, units, run, repeats, times in ready:
            begin = time.perf_counter()
            for _ in range(repeats):
                run()
            times.append((time.perf_counter() - begin) / repeats / units)
    for case, contender, gflop, _, _, _, times in ready:
        seconds = statistics.median(times)
        say(case=case["case"], contender=contender, seconds=seconds, fastest=min(times), samples=len(times),
            gflop=gflop, gflops=gflop / seconds if gflop else None, threads=threads)


class Torch:
    """PyTorch's LSTM."""

    def __init__(self, threads):
        import numpy
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        torch.manual_seed(SEED)
        self.torch, self.numpy = torch, numpy
        onednn = "with" if torch.backends.mkldnn.is_available() else "without"
        note("torch", f"{torch.__version__}, {onednn} oneDNN, {torch.get_num_threads()} threads; the LSTM of torch.nn")

    def works(self, case):
        make = {"scan_vs_lstm": self.scan, "training_step": self.training, "stream": self.token}.get(case["group"])
        for contender, units, run in make(case) if make else []:
            yield case, contender, case["gflop"]["lstm"], units, run

    def lstm(self, case, dtype):
        lstm = self.torch.nn.LSTM(case["input"], case["hidden"], batch_first=True).eval()
        return lstm.to(dtype)

    def scan(self, case):
        torch = self.torch
        x = torch.from_numpy(one_hot(self.numpy, case)[0])

        def run(lstm, x):
            with torch.inference_mode():
                lstm(x)

        for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
            yield f"torch lstm {name}", 1, functools.partial(run, self.lstm(case, dtype), x.to(dtype))

        def native(lstm, x):
            torch.backends.mkldnn.set_flags(False)
            run(lstm, x)
            torch.backends.mkldnn.set_flags(True)

        yield "torch native lstm f32", 1, functools.partial(native, self.lstm(case, torch.float32), x)

    def training(self, case):
        torch = self.torch
        x, targets = map(torch.from_numpy, one_hot(self.numpy, case))
        lstm = self.lstm(case, torch.float32).train()
        readout = torch.nn.Linear(case["hidden"], OUTPUT)
        parameters = [*lstm.parameters(), *readout.parameters()]
        adam = torch.optim.Adam(parameters, lr=1e-3)

        def run():
            adam.zero_grad()
            logits = readout(torch.relu(lstm(x)[0][:, -1]))
            loss = torch.nn.functional.cross_entropy(logits, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            assert loss.item() < float("inf")

        yield "torch lstm f32", 1, run

    def token(self, case):
        """One token after another through a cell that keeps its state; how many came before changes nothing."""
        torch, tokens = self.torch, 64
        x = torch.from_numpy(one_hot(self.numpy, dict(case, time=tokens))[0])
        lstm = self.lstm(case, torch.float32)

        def run():
            state = None
            with torch.inference_mode():
                for t in range(tokens):
                    _, state = lstm(x[:, t : t + 1], state)

        yield "torch lstm f32", tokens, run


class Jax:
    """The PR-LSTM as the paper computes it: z = x·W + b of every layer, gates in the order i g o f…"""

    def __init__(self, threads):
        # XLA takes its threads from the processors that the process may run on.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        import jax
        import numpy

        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        self.jax, self.numpy = jax, numpy
        note("jax", f"{jax.__version__} on {jax.devices()[0].platform}, {threads} threads; associative_scan of the "
             f"PR-LSTM's merge, jitted, f32{', compiled once for all runs' if cache else ''}")

    def works(self, case):
        make = {"scan_vs_lstm": self.scan, "training_step": self.training}.get(case["group"])
        for contender, algorithm, run in make(case) if make else []:
            yield case, contender, case["gflop"][algorithm], 1, run

    def parameters(self, case):
        random, h = self.numpy.random.default_rng(SEED), case["hidden"]
        shapes = {"leaf": (case["input"], 3 * h), "merge": (2 * h, 5 * h), "unary": (h, 4 * h), "readout": (h, OUTPUT)}
        array = lambda shape: (random.standard_normal(shape) / shape[0] ** 0.5).astype(self.numpy.float32)
        return {name: (array(shape), self.numpy.zeros(shape[1], self.numpy.float32)) for name, shape in shapes.items()}

    def gated(self, layer, x, *cells):
        """c = σ(i)⊙tanh(g) + Σ σ(f_n)⊙c_n, h = σ(o)⊙tanh(c)."""
        jnp, sigmoid = self.jax.numpy, self.jax.nn.sigmoid
        w, b = layer
        i, g, o, *forget = jnp.split(x @ w + b, 3 + len(cells), axis=-1)
        c = sigmoid(i) * jnp.tanh(g) + sum(sigmoid(f) * c for f, c in zip(forget, cells))
        return sigmoid(o) * jnp.tanh(c), c

    def hidden(self, parameters, x):
        """h of all prefixes, [T, B, H], of x: [T, B, D]. Time goes first: the scan's slices are then whole blocks."""
        jnp = self.jax.numpy

        def merge(left, right):
            state = self.gated(parameters["merge"], jnp.concatenate([left[0], right[0]], axis=-1), left[1], right[1])
            return self.gated(parameters["unary"], state[0], state[1])

        return self.jax.lax.associative_scan(merge, self.gated(parameters["leaf"], x))[0]

    def check(self, path):
        """Compares all prefixes with those of a golden file, made by the paper's code: the relative error in norm."""
        numpy = self.numpy
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            data = file.read()

        def tensor(name):
            begin, end = header[name]["data_offsets"]
            return numpy.frombuffer(data[begin:end], "<f8").reshape(header[name]["shape"])

        layer = lambda name: tuple(tensor(f"param.{name}.{part}").astype(numpy.float32) for part in "wb")
        parameters = {name: layer(file) for name, file in [("leaf", "leaf"), ("merge", "merge"), ("unary", "unary.0")]}
        x, hidden = (tensor(name).swapaxes(0, 1) for name in ["input", "hidden"])
        found = numpy.asarray(self.jax.jit(self.hidden)(parameters, x.astype(numpy.float32)))
        assert found.shape == hidden.shape
        return float(numpy.linalg.norm(found - hidden) / numpy.linalg.norm(hidden))

    def scan(self, case):
        jax = self.jax
        parameters = jax.device_put(self.parameters(case))
        x = jax.device_put(one_hot(self.numpy, case)[0].swapaxes(0, 1))
        forward = jax.jit(self.hidden)
        last = jax.jit(lambda parameters, x: self.hidden(parameters, x)[-1])
        yield "jax pr-lstm f32", "tree", lambda: forward(parameters, x).block_until_ready()
        yield "jax pr-lstm last f32", "tree last", lambda: last(parameters, x).block_until_ready()

    def training(self, case):
        jax, jnp = self.jax, self.jax.numpy
        x, targets = one_hot(self.numpy, case)
        x, targets = jax.device_put(x.swapaxes(0, 1)), jax.device_put(targets)

        def loss(parameters, x, targets):
            w, b = parameters["readout"]
            logits = jax.nn.relu(self.hidden(parameters, x)[-1]) @ w + b
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=-1).mean()

        def step(state, x, targets):
            parameters, m, v, count = state
            value, gradient = jax.value_and_grad(loss)(parameters, x, targets)
            map_ = jax.tree_util.tree_map
            norm = jnp.sqrt(sum((g * g).sum() for g in jax.tree_util.tree_leaves(gradient)))
            gradient = map_(lambda g: g * jnp.minimum(1.0, 1.0 / norm), gradient)
            count = count + 1
            m = map_(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = map_(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            correct = lambda p, m, v: p - 1e-3 * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            return (map_(correct, parameters, m, v), m, v, count), value

        compiled = jax.jit(step, donate_argnums=0)
        parameters = jax.device_put(self.parameters(case))
        zeros = lambda: jax.tree_util.tree_map(jnp.zeros_like, parameters)
        state = [(parameters, zeros(), zeros(), jnp.float32(0))]

        def run():
            state[0], value = compiled(state[0], x, targets)
            assert float(value) < float("inf")

        yield "jax pr-lstm last f32", "tree last", run


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("peer", choices=["torch", "jax"], help="one a process: their threads would meet")
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--samples", type=int, default=20)
    arguments.add_argument("--small", action="store_true", help="each once: shows that everything runs")
    arguments.add_argument("--check", nargs="+", metavar="FILE", help="golden cell files with one unary layer and a merge, for jax")
    given = arguments.parse_args()
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
        os.environ[name] = str(given.threads)
    try:
        peer = {"torch": Torch, "jax": Jax}[given.peer](given.threads)
    except ImportError as error:
        return note(f"left out: {given.peer}", f"{error} (benches/peers/requirements.txt has what it takes)")
    for path in given.check or []:
        error = peer.check(path)
        note("jax against the paper's own code", f"{os.path.basename(path)}: relative error {error:.1e}")
        if not error < 1e-5:
            sys.exit(f"error: {path}: the peer does not compute the paper's cell")
    for line in [] if given.check else sys.stdin:
        measure(peer.works(json.loads(line)), given.samples, given.small, given.threads)


if __name__ == "__main__":
    main()
