// Global to shared memory without passing through registers, 16 bytes a thread at a time, in groups that are waited for;
// and shared memory to registers, 16 bytes at a time.
#pragma once
#include <cstdint>

constexpr int kChunk = 16; // bytes of one copy

__device__ inline uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// .cg: through L2 only, what one block reads another reads next.
__device__ inline void copy_chunk(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// The same if `there`, without a branch.
__device__ inline void copy_chunk_if(bool there, uint32_t to, const void* from) {
    asm volatile("{\n\t"
                 ".reg .pred there;\n\t"
                 "setp.ne.u32 there, %2, 0;\n\t"
                 "@there cp.async.cg.shared.global [%0], [%1], 16;\n\t"
                 "}" ::"r"(to), "l"(from), "r"(static_cast<uint32_t>(there))
                 : "memory");
}

// Two chunks, the second from `kFurther` bytes further; both go to `kOn` bytes beyond those places.
template <int kOn, int kFurther>
__device__ inline void copy_chunks_if(bool there, uint32_t to, uint32_t second, const void* from) {
    asm volatile("{\n\t"
                 ".reg .pred there;\n\t"
                 "setp.ne.u32 there, %3, 0;\n\t"
                 "@there cp.async.cg.shared.global [%0 + %4], [%2], 16;\n\t"
                 "@there cp.async.cg.shared.global [%1 + %4], [%2 + %5], 16;\n\t"
                 "}" ::"r"(to), "r"(second), "l"(from), "r"(static_cast<uint32_t>(there)), "n"(kOn), "n"(kFurther)
                 : "memory");
}

// The same as one; `bytes` of 0 write zeros and read nothing.
__device__ inline void copy_chunk_or_zero(bool there, uint32_t to, const void* from, uint32_t bytes) {
    asm volatile("{\n\t"
                 ".reg .pred there;\n\t"
                 "setp.ne.u32 there, %3, 0;\n\t"
                 "@there cp.async.cg.shared.global [%0], [%1], 16, %2;\n\t"
                 "}" ::"r"(to), "l"(from), "r"(bytes), "r"(static_cast<uint32_t>(there))
                 : "memory");
}

__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of the youngest groups are still under way.
template <int kPending>
__device__ inline void wait_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline void load_shared(float* x, uint32_t from) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(from)
                 : "memory");
}
