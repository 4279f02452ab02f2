// base.cuh: the few names that every template uses. Compiles as CUDA (NVRTC, nvcc, clangd), as the sim's host C++, and as
// the host's own C++ (weight packers).
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

/// Sixteen bytes: what one load brings.
struct alignas(16) Words4 {
  u32 word[4];
};
struct alignas(8) Words2 {
  u32 word[2];
};

#if defined(__CUDACC__) && !defined(PHASEC_SIM)
#define PHASEC_DEVICE __device__ __forceinline__
#define PHASEC_TABLE __constant__ const
#define PHASEC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#define PHASEC_KERNEL_ENTRY(kernel, args)
#else
#define PHASEC_DEVICE inline
#define PHASEC_TABLE static const
#endif
