// Lets a C++ compiler for the host take the kernels: the threads of a grid run one after another. What this shows is
// that the arithmetic and the arguments are right, not that a GPU runs them.

#include <math.h>
#include <stddef.h>

#include <type_traits>
#include <utility>

#define __global__
#define __device__

struct Dimensions {
  unsigned x, y;
};
static thread_local Dimensions blockIdx, blockDim, threadIdx;

static inline float float_from_half(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
  if (exponent == 31) size = fraction ? NAN : INFINITY;
  return bits & 0x8000 ? -size : size;
}

template <typename... Values, size_t... I>
void run(void (*kernel)(Values...), Dimensions grid, Dimensions block, void** parameters, std::index_sequence<I...>) {
  blockDim = block;
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
      for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
        for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
          kernel(*static_cast<Values*>(parameters[I])...);
}

template <typename... Values>
void run(void (*kernel)(Values...), Dimensions grid, Dimensions block, void** parameters) {
  run(kernel, grid, block, parameters, std::index_sequence_for<Values...>());
}

// The parameters come as cuLaunchKernel takes them.
#define ON_HOST(name)                                                                                                \
  extern "C" void host_##name(unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y, void** values) { \
    run(name, {grid_x, grid_y}, {block_x, block_y}, values);                                                         \
  }
