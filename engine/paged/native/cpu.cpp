// The paged engine's inner loops for processors: projections, norms, rotation, gate, attention.
//
// Plain pointers in, plain pointers out; shapes as in the torch twins (`layers.TorchOps`,
// `attention.TorchPaged`), which are the fall-back and the tests' oracle. Everything is float32
// but stored weights. One tile of registers does all multiplications, in one order of additions
// per element, so that a row's numbers do not depend on the rows beside it.
//
// Built by `library.py`, which does not link OpenMP: the symbols are found in torch's own, so
// that both share one pool of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // 8 * 3 sums and 3 weights in 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 4;  // 4 * 3 sums and 3 weights in 16 registers
#else
constexpr int LANES = 4, ROWS = 8;
#endif
constexpr int WIDE = 3, NARROW = 2;  // vectors across a tile: of projections, of attention
constexpr int PANEL = WIDE * LANES;  // columns of a packed weight that lie together
constexpr int HEAD_ROWS = 8;         // queries times heads that attend together
constexpr int64_t PIECE = 8 * HEAD_ROWS;  // of them that one thread computes at a time
constexpr int64_t FEW = 16384;       // elements that are not worth a second thread

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));
struct Half { uint16_t bits; };
struct Brain { uint16_t bits; };

inline Vec load(const float* p) { return *(const Vec*)p; }
inline void store(float* p, Vec v) { *(Vec*)p = v; }
inline Vec all(float x) { return x - Vec{}; }

inline Vec load(const Brain* p) {
  typedef uint16_t Shorts __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
  return (Vec)(__builtin_convertvector(*(const Shorts*)p, IntVec) << 16);
}

inline Vec load(const Half* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
  typedef __fp16 Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
  return __builtin_convertvector(*(const Halves*)p, Vec);
#else
#error "no half precision on this processor"
#endif
}

// Asks memory for what is needed soon; blocks lie anywhere, so that the processor cannot guess.
inline void fetch(const float* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(p + i, 0, 2);
}

float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

// e to the x for x <= 88; relative error about 1e-7, and 0 below -87.
inline Vec exponential(Vec x) {
  const Vec at = x * 1.44269504f;
  const Vec rounded = (at + 12582912.0f) - 12582912.0f;
  const Vec rest = (x - rounded * 0.693145752f) - rounded * 1.42860677e-6f;
  Vec value = all(1.f / 5040);
  const float factors[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f};
  for (int i = 0; i < 7; i++) value = value * rest + factors[i];
  const IntVec power = (__builtin_convertvector(rounded, IntVec) + 127) << 23;
  const Vec scaled = value * (Vec)power;
  return x < -87.f ? Vec{} : scaled;
}

inline Vec hyperbolic_tangent(Vec x) {
  const Vec near = x > 9.f ? all(9.f) : x < -9.f ? all(-9.f) : x;
  const Vec squared = exponential(2.f * near);
  return (squared - 1.f) / (squared + 1.f);
}

// out (R, V * LANES) = x (R, depth) @ w, or += when `adds`; w's rows are `stride` apart.
template <int R, int V, class T>
void tile(const float* x, int64_t x_stride, const T* w, int64_t stride, int64_t depth, float* out,
          int64_t out_stride, bool adds) {
  Vec sums[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = adds ? load(out + r * out_stride + v * LANES) : Vec{};
  for (int64_t k = 0; k < depth; k++, w += stride) {
    Vec weights[V];
    for (int v = 0; v < V; v++) weights[v] = load(w + v * LANES);
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sums[r][v] += x[r * x_stride + k] * weights[v];
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * out_stride + v * LANES, sums[r][v]);
}

// As `tile`, for 1 to `R` rows.
template <int R, int V, class T>
void tile_of(int64_t rows, const float* x, int64_t x_stride, const T* w, int64_t stride,
             int64_t depth, float* out, int64_t out_stride, bool adds) {
  if constexpr (R > 1)
    if (rows < R)
      return tile_of<R - 1, V, T>(rows, x, x_stride, w, stride, depth, out, out_stride, adds);
  tile<R, V, T>(x, x_stride, w, stride, depth, out, out_stride, adds);
}

// Columns of one panel. Its weights are made float32 anew for each tile of rows, in registers:
// that costs less than to write them to the cache and read them back.
template <class T>
void project_panel(float* out, int64_t out_stride, const float* x, const T* packed, int64_t rows,
                   int64_t depth) {
  for (int64_t row = 0; row < rows; row += ROWS)
    tile_of<ROWS, WIDE, T>(std::min<int64_t>(ROWS, rows - row), x + row * depth, depth, packed,
                           PANEL, depth, out + row * out_stride, out_stride, false);
}

template <class T>
void project(float* out, const float* x, const T* packed, const float* bias, int64_t rows,
             int64_t depth, int64_t columns) {
  const int64_t panels = (columns + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(dynamic)  // few panels: by fours, one thread waits
  for (int64_t panel = 0; panel < panels; panel++) {
    const int64_t first = panel * PANEL, width = std::min<int64_t>(PANEL, columns - first);
    float* to = out + first;
    if (width == PANEL) {
      project_panel(to, columns, x, packed + first * depth, rows, depth);
    } else {
      const std::unique_ptr<float[]> whole(new float[rows * PANEL]);
      project_panel(whole.get(), PANEL, x, packed + first * depth, rows, depth);
      for (int64_t r = 0; r < rows; r++)
        std::memcpy(to + r * columns, whole.get() + r * PANEL, width * sizeof(float));
    }
    if (bias)
      for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++) to[r * columns + c] += bias[first + c];
  }
}

// One tile of one key and value head: `rows` pairs of query and head, the first is pair `first`.
struct Attention {
  float* out;
  const float *q, *keys, *values;  // keys (blocks, kv_heads, head_dim, size)
  const int32_t *query_start, *contexts, *tables;
  int64_t q_stride, heads, kv_heads, head_dim, size, columns, window;
  float scale, soft_cap;

  void run(int64_t sequence, int64_t kv_head, int64_t first, int64_t rows, float* scratch) const {
    const int64_t group = heads / kv_heads, start = query_start[sequence];
    const int64_t queries = query_start[sequence + 1] - start;
    const int64_t past = contexts[sequence] - queries;
    float *asking = scratch, *found = asking + HEAD_ROWS * head_dim;
    float* scores = found + HEAD_ROWS * head_dim;
    float most[HEAD_ROWS], total[HEAD_ROWS];
    int64_t from[HEAD_ROWS], to[HEAD_ROWS];  // keys that each row sees
    for (int64_t r = 0; r < rows; r++) {
      const int64_t query = (first + r) / group, head = kv_head * group + (first + r) % group;
      const float* its = q + (start + query) * q_stride + head * head_dim;
      for (int64_t d = 0; d < head_dim; d++) asking[r * head_dim + d] = its[d] * scale;
      to[r] = past + query + 1;
      from[r] = window && to[r] > window ? to[r] - window : 0;
      most[r] = -INFINITY, total[r] = 0;
    }
    std::memset(found, 0, rows * head_dim * sizeof(float));
    for (int64_t block = from[0] / size; block * size < to[rows - 1]; block++) {
      const int64_t id = tables[sequence * columns + block];
      const int64_t at = (id * kv_heads + kv_head) * head_dim * size, begin = block * size;
      const int64_t seen = to[rows - 1] - begin < size ? to[rows - 1] - begin : size;
      fetch(values + at, seen * head_dim);
      if (begin + size < to[rows - 1])
        fetch(keys + (tables[sequence * columns + block + 1] * kv_heads + kv_head) * head_dim * size,
              head_dim * size);
      for (int64_t c = 0; c < size; c += NARROW * LANES)
        tile_of<HEAD_ROWS, NARROW, float>(rows, asking, head_dim, keys + at + c, size, head_dim,
                                          scores + c, size, false);
      for (int64_t r = 0; r < rows; r++)
        weigh(scores + r * size, from[r] - begin, to[r] - begin, most[r], total[r],
              found + r * head_dim);
      for (int64_t d = 0; d < head_dim; d += NARROW * LANES)
        tile_of<HEAD_ROWS, NARROW, float>(rows, scores, size, values + at + d, head_dim, seen,
                                          found + d, head_dim, true);
    }
    for (int64_t r = 0; r < rows; r++) {
      const int64_t query = (first + r) / group, head = kv_head * group + (first + r) % group;
      float* its = out + ((start + query) * heads + head) * head_dim;
      for (int64_t d = 0; d < head_dim; d++) its[d] = found[r * head_dim + d] / total[r];
    }
  }

  // Scores of one block become weights; what was found before shrinks when a greater one appears.
  void weigh(float* scores, int64_t from, int64_t to, float& most, float& total,
             float* found) const {
    from = from < 0 ? 0 : from, to = to < size ? to : size;
    if (soft_cap)
      for (int64_t c = 0; c < size; c += LANES)
        store(scores + c, soft_cap * hyperbolic_tangent(load(scores + c) / soft_cap));
    for (int64_t c = 0; c < size; c++)  // also what lies in slots that were never written
      if (c < from || c >= to) scores[c] = -INFINITY;
    float greatest = most;
    for (int64_t c = from; c < to; c++) greatest = scores[c] > greatest ? scores[c] : greatest;
    if (from >= to) {
      std::memset(scores, 0, size * sizeof(float));
      return;
    }
    if (greatest > most) {
      const float shrink = std::exp(most - greatest);
      total *= shrink, most = greatest;
      for (int64_t d = 0; d < head_dim; d += LANES) store(found + d, load(found + d) * shrink);
    }
    Vec sums{};
    for (int64_t c = 0; c < size; c += LANES) {
      const Vec weight = exponential(load(scores + c) - most);
      store(scores + c, weight);
      sums += weight;
    }
    for (int64_t c = 0; c < size; c++)
      if (c < from || c >= to) scores[c] = 0;
    total += sum(sums);
  }
};

}  // namespace

extern "C" {

int64_t hearth_panel() { return PANEL; }
int64_t hearth_step() { return NARROW * LANES; }

void hearth_project(int64_t kind, float* out, const float* x, const void* packed,
                    const float* bias, int64_t rows, int64_t depth, int64_t columns) {
  if (kind == 0) project(out, x, (const float*)packed, bias, rows, depth, columns);
  if (kind == 1) project(out, x, (const Half*)packed, bias, rows, depth, columns);
  if (kind == 2) project(out, x, (const Brain*)packed, bias, rows, depth, columns);
}

// x (rows / inner, inner, size) with strides; residual and sum (rows, size), or null.
void hearth_norm(float* out, float* sum_out, const float* x, const float* residual,
                 const float* weight, int64_t rows, int64_t inner, int64_t outer_stride,
                 int64_t inner_stride, int64_t size, float eps) {
#pragma omp parallel for schedule(static) if (rows * size > FEW)
  for (int64_t row = 0; row < rows; row++) {
    const float* from = x + row / inner * outer_stride + row % inner * inner_stride;
    float* to = out + row * size;
    if (residual) {
      for (int64_t i = 0; i < size; i++)
        sum_out[row * size + i] = from[i] + residual[row * size + i];
      from = sum_out + row * size;
    }
    Vec squares{};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(from + i) * load(from + i);
    float total = sum(squares);
    for (; i < size; i++) total += from[i] * from[i];
    const float shrink = 1 / std::sqrt(total / size + eps);
    for (int64_t j = 0; j < size; j++) to[j] = from[j] * shrink * weight[j];
  }
}

// x (tokens, heads, head_dim), tokens `stride` apart; cosine and sine (tokens, half).
void hearth_rotate(float* out, const float* x, const float* cosine, const float* sine,
                   int64_t tokens, int64_t stride, int64_t heads, int64_t head_dim,
                   int64_t half) {
#pragma omp parallel for schedule(static) if (tokens * heads * head_dim > FEW)
  for (int64_t token = 0; token < tokens; token++) {
    const float *c = cosine + token * half, *s = sine + token * half;
    for (int64_t head = 0; head < heads; head++) {
      const float* from = x + token * stride + head * head_dim;
      float* to = out + (token * heads + head) * head_dim;
      for (int64_t i = 0; i < half; i++) {
        to[i] = from[i] * c[i] - from[half + i] * s[i];
        to[half + i] = from[half + i] * c[i] + from[i] * s[i];
      }
      for (int64_t i = 2 * half; i < head_dim; i++) to[i] = from[i];
    }
  }
}

// gate_up (rows, 2 * size) → (rows, size)
void hearth_gated(float* out, const float* gate_up, int64_t rows, int64_t size, int64_t gelu) {
#pragma omp parallel for schedule(static) if (rows * size > FEW)
  for (int64_t row = 0; row < rows; row++) {
    const float *gate = gate_up + row * 2 * size, *up = gate + size;
    for (int64_t i = 0; i < size; i += LANES) {
      float g[LANES] = {}, u[LANES] = {}, last[LANES];
      const int64_t count = size - i < LANES ? size - i : LANES;
      const float *from = gate + i, *with = up + i;
      float* to = out + row * size + i;
      if (count < LANES) {
        std::memcpy(g, from, count * sizeof(float));
        std::memcpy(u, with, count * sizeof(float));
        from = g, with = u, to = last;
      }
      const Vec x = load(from);
      // 0.5 * (1 + tanh(y)) is sigmoid(2 * y)
      const Vec asked = gelu ? 1.5957691216057308f * x * (1.f + 0.044715f * x * x) : x;
      const Vec bounded = asked < -80.f ? all(-80.f) : asked;
      store(to, x / (1.f + exponential(-bounded)) * load(with));
      if (count < LANES) std::memcpy(out + row * size + i, last, count * sizeof(float));
    }
  }
}

// k, v (tokens, kv_heads, head_dim), tokens `k_stride` and `v_stride` apart, into the cache.
void hearth_store(float* keys, float* values, const float* k, const float* v,
                  const int64_t* slots, int64_t tokens, int64_t k_stride, int64_t v_stride,
                  int64_t kv_heads, int64_t head_dim, int64_t size) {
  for (int64_t token = 0; token < tokens; token++) {
    const int64_t block = slots[token] / size, offset = slots[token] % size;
    for (int64_t head = 0; head < kv_heads; head++) {
      const int64_t at = (block * kv_heads + head) * head_dim * size;
      const float* key = k + token * k_stride + head * head_dim;
      for (int64_t d = 0; d < head_dim; d++) keys[at + d * size + offset] = key[d];
      std::memcpy(values + at + offset * head_dim, v + token * v_stride + head * head_dim,
                  head_dim * sizeof(float));
    }
  }
}

void hearth_attend(float* out, const float* q, const float* keys, const float* values,
                   const int32_t* query_start, const int32_t* contexts, const int32_t* tables,
                   int64_t sequences, int64_t most_queries, int64_t columns, int64_t q_stride, int64_t heads,
                   int64_t kv_heads, int64_t head_dim, int64_t size, int64_t window, float scale,
                   float soft_cap) {
  const Attention attention{out,      q,     keys,     values,   query_start, contexts,
                            tables,   q_stride, heads, kv_heads, head_dim,    size,
                            columns,  window, scale,   soft_cap};
  const int64_t pieces = (most_queries * (heads / kv_heads) + PIECE - 1) / PIECE;
#pragma omp parallel
  {
    const std::unique_ptr<float[]> scratch(new float[HEAD_ROWS * (2 * head_dim + size)]);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < sequences * kv_heads * pieces; item++) {
      const int64_t piece = item % pieces, at = item / pieces;
      const int64_t sequence = at / kv_heads, kv_head = at % kv_heads;
      const int64_t queries = query_start[sequence + 1] - query_start[sequence];
      const int64_t pairs = queries * (heads / kv_heads), end = (piece + 1) * PIECE;
      if (contexts[sequence] == 0) continue;  // padding
      for (int64_t first = piece * PIECE; first < pairs && first < end; first += HEAD_ROWS)
        attention.run(sequence, kv_head, first,
                      pairs - first < HEAD_ROWS ? pairs - first : HEAD_ROWS, scratch.get());
    }
  }
}

}  // extern "C"
