// Logits or class ids at the network's stride become a class map at the frame's size, as edgeseg/decode.py does it:
// the same cells are skipped, the same classes are left out, and what is left is computed in the same order. Needs
// sums and products that are not contracted.

struct Tap {
  int low, high;  // the two samples of an output row or column
  float weight;   // of the second
};

struct Status {
  int not_finite;  // a NaN or an infinity was seen
  int huge;        // a logit was seen whose differences may overflow
  int foreign;     // a class id beyond the model's classes was seen
  int foreign_id;  // one of them
};

constexpr float kLargest = 3.402823466e38f;
constexpr float kHuge = kLargest / 8;

__device__ inline float value_of(float logit) { return logit; }
__device__ inline float value_of(unsigned short half_bits) { return float_from_half(half_bits); }

// The class with the largest logit at every sample, the lowest of several.
template <typename Logit>
__device__ void find_winners(const Logit* logits, int classes, int samples, unsigned char* winners, Status* status) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= samples) return;
  float best = -kLargest;
  int winner = 0;
  bool finite = true, huge = false;
  for (int c = 0; c < classes; ++c) {
    const float value = value_of(logits[(size_t)c * samples + at]);
    finite = finite && fabsf(value) <= kLargest;
    huge = huge || fabsf(value) >= kHuge;
    if (value > best) {
      best = value;
      winner = c;
    }
  }
  winners[at] = (unsigned char)winner;
  if (!finite) status->not_finite = 1;
  if (huge) status->huge = 1;
}

// The four corners of a cell, and where in it a pixel lies.
struct Cell {
  int corner[4];  // top left, top right, bottom left, bottom right
  float down, across;
};

__device__ inline Cell cell_of(Tap row, Tap column, int samples_width) {
  const int top = row.low * samples_width, bottom = row.high * samples_width;
  return {{top + column.low, top + column.high, bottom + column.low, bottom + column.high}, row.weight, column.weight};
}

template <typename Logit>
__device__ void load(const Logit* plane, const Cell& cell, float scale, float value[4]) {
  for (int i = 0; i < 4; ++i) value[i] = value_of(plane[cell.corner[i]]) * scale;
}

__device__ inline float interpolate(const float value[4], const Cell& cell) {
  const float left = (value[2] - value[0]) * cell.down + value[0];
  const float right = (value[3] - value[1]) * cell.down + value[1];
  return (right - left) * cell.across + left;
}

__device__ inline bool beaten(const float value[4], const float rival[4]) {
  return value[0] < rival[0] && value[1] < rival[1] && value[2] < rival[2] && value[3] < rival[3];
}

template <typename Logit>
__device__ void decode(const Logit* logits, int classes, int samples_height, int samples_width,
                       const unsigned char* winners, const Tap* rows, const Tap* columns, int prune,
                       const Status* status, unsigned char* mask, int height, int width) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x;
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  unsigned char* pixel = mask + (size_t)y * width + x;
  if (status->not_finite) {
    *pixel = 255;
    return;
  }
  const Cell cell = cell_of(rows[y], columns[x], samples_width);
  const int first = winners[cell.corner[0]];
  int second = first;
  for (int i = 3; i > 0; --i) {
    const int other = winners[cell.corner[i]];
    if (other != first) second = other;
  }
  if (second == first) {
    *pixel = (unsigned char)first;
    return;
  }
  const float scale = status->huge ? 0.125f : 1.0f;
  const size_t samples = (size_t)samples_height * samples_width;
  float first_rival[4], second_rival[4], value[4];
  load(logits + first * samples, cell, scale, first_rival);
  load(logits + second * samples, cell, scale, second_rival);
  float best = 0.0f;
  int winner = -1;
  for (int c = 0; c < classes; ++c) {
    load(logits + c * samples, cell, scale, value);
    if (prune && (beaten(value, first_rival) || beaten(value, second_rival))) continue;
    const float here = interpolate(value, cell);
    if (winner < 0 || here > best) {
      best = here;
      winner = c;
    }
  }
  *pixel = (unsigned char)winner;
}

// How clearly the best class leads the second at every pixel of the frame: 255 (p1 - p2) / (p1 + p2) with the
// probabilities that a softmax gives the two.
template <typename Logit>
__device__ void measure_margin(const Logit* logits, int classes, int samples_height, int samples_width,
                               const Tap* rows, const Tap* columns, const Status* status, unsigned char* margin,
                               int height, int width) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x;
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  unsigned char* pixel = margin + (size_t)y * width + x;
  if (status->not_finite) {
    *pixel = 0;
    return;
  }
  const Cell cell = cell_of(rows[y], columns[x], samples_width);
  const size_t samples = (size_t)samples_height * samples_width;
  const float scale = status->huge ? 0.125f : 1.0f;
  float best = -kLargest, next = -kLargest, value[4];
  for (int c = 0; c < classes; ++c) {
    load(logits + c * samples, cell, scale, value);
    const float here = interpolate(value, cell);
    if (here > best) {
      next = best;
      best = here;
    } else if (here > next) {
      next = here;
    }
  }
  const float behind = expf(next / scale - best / scale);
  *pixel = (unsigned char)(255.0f * (1.0f - behind) / (1.0f + behind) + 0.5f);
}

// Class ids repeated or left out, half-pixel centres.
template <typename Id>
__device__ void resize_ids(const Id* ids, int classes, int samples_height, int samples_width, Status* status,
                           unsigned char* mask, int height, int width) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x;
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  const unsigned row = (2u * y + 1) * samples_height / (2u * height);
  const unsigned column = (2u * x + 1) * samples_width / (2u * width);
  const long long id = (long long)ids[(size_t)row * samples_width + column];
  if (id < 0 || id >= classes) {
    status->foreign_id = (int)id;
    status->foreign = 1;
  }
  mask[(size_t)y * width + x] = (unsigned char)id;
}

#define DECODE(bits, Logit)                                                                                         \
  extern "C" __global__ void winners_f##bits(const Logit* logits, int classes, int samples, unsigned char* winners, \
                                             Status* status) {                                                      \
    find_winners(logits, classes, samples, winners, status);                                                        \
  }                                                                                                                 \
  extern "C" __global__ void decode_f##bits(const Logit* logits, int classes, int samples_height,                   \
                                            int samples_width, const unsigned char* winners, const Tap* rows,       \
                                            const Tap* columns, int prune, const Status* status,                    \
                                            unsigned char* mask, int height, int width) {                           \
    decode(logits, classes, samples_height, samples_width, winners, rows, columns, prune, status, mask, height,     \
           width);                                                                                                  \
  }                                                                                                                 \
  extern "C" __global__ void margin_f##bits(const Logit* logits, int classes, int samples_height,                   \
                                            int samples_width, const Tap* rows, const Tap* columns,                 \
                                            const Status* status, unsigned char* margin, int height, int width) {   \
    measure_margin(logits, classes, samples_height, samples_width, rows, columns, status, margin, height, width);   \
  }

DECODE(32, float)
DECODE(16, unsigned short)

#define RESIZE(name, Id)                                                                                            \
  extern "C" __global__ void resize_##name(const Id* ids, int classes, int samples_height, int samples_width,       \
                                           Status* status, unsigned char* mask, int height, int width) {            \
    resize_ids(ids, classes, samples_height, samples_width, status, mask, height, width);                           \
  }

RESIZE(uint8, unsigned char)
RESIZE(int32, int)
RESIZE(int64, long long)
