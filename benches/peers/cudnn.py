#!/usr/bin/env python3
"""PyTorch's LSTM on a GPU, as cuDNN computes it, at the sizes of benches/forward.rs and benches/training.rs: H = 256.

Prints tables in Markdown. Input is one-hot, [B, T, 3], already on the device. Each is timed call by call and as a CUDA
graph, by the host's clock around enough calls, the median of five.
"""

import statistics
import sys
import time

HIDDEN, SYMBOLS, OUTPUT = 256, 3, 2


def seconds(torch, run):
    """Of a call, when calls are enqueued one after another."""
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    count = max(1, min(50, round(0.05 / (time.perf_counter() - start))))
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            run()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - start) / count)
    return statistics.median(taken)


def captured(torch, run):
    """The replay of `run` as a graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def row(torch, what, run):
    cells = [f"{seconds(torch, run) * 1e3:.3f} ms"]
    try:
        cells.append(f"{seconds(torch, captured(torch, run)) * 1e3:.3f} ms")
    except Exception as error:  # what a library refuses to capture
        torch.cuda.synchronize()
        cells.append(f"not captured ({type(error).__name__})")
    print(f"| {what} | {' | '.join(cells)} |", flush=True)


def one_hot(torch, batch, length, dtype):
    tokens = torch.randint(0, SYMBOLS, (batch, length), device="cuda")
    return torch.nn.functional.one_hot(tokens, SYMBOLS).to(dtype), tokens.sum(dim=1) % OUTPUT


def main():
    try:
        import torch
    except ImportError as error:
        return print(f"cuDNN's LSTM was not timed: {error}")
    if not torch.cuda.is_available():
        return print(f"cuDNN's LSTM was not timed: torch {torch.__version__} sees no GPU")
    torch.manual_seed(1)
    device = torch.cuda.get_device_name()
    print(f"| cuDNN {torch.backends.cudnn.version()} LSTM, torch {torch.__version__} ({device}; H = {HIDDEN}) | launched | graph |")
    print("|---|---|---|")
    for name, dtype in [("bf16", torch.bfloat16), ("f32", torch.float32)]:
        lstm = torch.nn.LSTM(SYMBOLS, HIDDEN, batch_first=True).cuda().to(dtype).eval()
        for batch in [1024, 512, 128, 64, 8, 1]:
            x, _ = one_hot(torch, batch, 500, dtype)

            def forward():
                with torch.inference_mode():
                    lstm(x)

            row(torch, f"B = {batch}, T = 500, {name}", forward)
    for name, dtype in [("bf16", torch.bfloat16), ("f32", torch.float32)]:
        lstm = torch.nn.LSTM(SYMBOLS, HIDDEN, batch_first=True).cuda().to(dtype)
        readout = torch.nn.Linear(HIDDEN, OUTPUT).cuda().to(dtype)
        parameters = [*lstm.parameters(), *readout.parameters()]
        adam = torch.optim.Adam(parameters, lr=1e-3, capturable=True, fused=True)
        x, targets = one_hot(torch, 128, 40, dtype)

        def step():
            adam.zero_grad(set_to_none=False)
            logits = readout(torch.relu(lstm(x)[0][:, -1]))
            torch.nn.functional.cross_entropy(logits.float(), targets).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()

        row(torch, f"training step, B = 128, T = 40, {name}", step)


if __name__ == "__main__":
    sys.exit(main())
