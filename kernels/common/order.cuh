// The order of launches. On sm_90 and newer a launch may begin while the one before it runs: every kernel waits for that one
// by itself, before it touches what launches write, and only then lets the next begin. So what a kernel reads before it
// waits may have been written by any launch but the last; the products fetch weights, biases and row numbers meanwhile.
#pragma once

__device__ inline void await_last_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
