// A frame becomes the network's input: OpenCV's bilinear resize of bytes, in its own fixed-point numbers, and then
// for every byte what a table says that colour order, normalisation and number format make of it.

struct Tap {
  int low, high;              // the two samples of an output row or column
  int low_share, high_share;  // of 2048
};

template <typename Value>
__device__ void prepare(const unsigned char* __restrict__ frame_hwc, int frame_width, const Tap* __restrict__ rows,
                        const Tap* __restrict__ columns, const Value* __restrict__ values,
                        Value* __restrict__ input, int height, int width, int reversed, int planar) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x;
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  const Tap row = rows[y], column = columns[x];
  const unsigned char* above = frame_hwc + (size_t)row.low * frame_width * 3;
  const unsigned char* below = frame_hwc + (size_t)row.high * frame_width * 3;
  const size_t pixel = (size_t)y * width + x, plane = (size_t)height * width;
  Value* target = input + (planar ? pixel : 3 * pixel);
  const size_t step = planar ? plane : 1;
  for (int channel = 0; channel < 3; ++channel) {
    const int source = reversed ? 2 - channel : channel;
    const int left = 3 * column.low + source, right = 3 * column.high + source;
    const int upper = above[left] * column.low_share + above[right] * column.high_share;
    const int lower = below[left] * column.low_share + below[right] * column.high_share;
    const int level = (((row.low_share * (upper >> 4)) >> 16) + ((row.high_share * (lower >> 4)) >> 16) + 2) >> 2;
    target[channel * step] = values[256 * channel + level];
  }
}

#define PREPARE(bits, Value)                                                                                       \
  extern "C" __global__ void prepare_##bits(const unsigned char* __restrict__ frame_hwc, int frame_width,          \
                                            const Tap* __restrict__ rows, const Tap* __restrict__ columns,         \
                                            const Value* __restrict__ values, Value* __restrict__ input,           \
                                            int height, int width, int reversed, int planar) {                     \
    prepare(frame_hwc, frame_width, rows, columns, values, input, height, width, reversed, planar);                \
  }

PREPARE(8, unsigned char)
PREPARE(16, unsigned short)
PREPARE(32, unsigned int)
