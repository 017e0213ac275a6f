// Run-length arithmetic for tube AP: parse, intersect, erode, match; and a JSON element scanner.
//
// Plain C++17 behind a C ABI over raw pointers (ctypes releases the interpreter lock); neither
// Python nor numpy headers are needed. Positions in a frame count down the columns: x * h + y.
// cocoapi_hq/native.py is the only caller; cocoapi_hq/runs.py computes the same with numpy.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(_WIN32)
#define HQ_API extern "C" __declspec(dllexport)
#else
#define HQ_API extern "C" __attribute__((visibility("default")))
#endif

namespace {

struct Run {
  uint32_t begin, end;  // pixels [begin, end) in column-major order
};

enum Status : int8_t { kMissing = 0, kPresent = 1, kBadText = 2, kNegative = 3, kWrongSum = 4 };

struct Mask {
  int32_t h = 0, w = 0;
  int64_t first = 0, count = 0;  // runs in the pool
  int64_t area = 0;
  int32_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // box, ends exclusive
  bool present = false;
  int32_t eroded_by = 0;  // 0: not eroded yet
  int64_t eroded_area = 0;
  std::vector<Run> eroded;
};

// Column lists in one flat array: column i owns items[at[i] .. at[i + 1]).
struct Columns {
  std::vector<Run> items;
  std::vector<int64_t> at;
  void clear() {
    items.clear();
    at.clear();
  }
};

struct Store {
  std::vector<Mask> masks;
  std::vector<Run> pool;
  Columns shrunk, prefix, suffix;  // scratch of the erosion
  std::vector<int64_t> suffix_begin, suffix_end;
};

// Read one number of COCO's text: six bits per character, the lowest five first, the sixth says
// that more follow, the sign is the top bit of the last. False if it is damaged.
inline bool read_number(const char*& p, const char* end, int64_t& value) {
  if (p == end) return false;
  const unsigned first = unsigned(static_cast<unsigned char>(*p)) - 48u;
  if (first < 32) {  // nearly every number has one character
    ++p;
    value = int64_t(first ^ 16) - 16;
    return true;
  }
  value = 0;
  for (int shift = 0; shift <= 30 && p < end;) {
    const unsigned code = unsigned(static_cast<unsigned char>(*p++)) - 48u;
    if (code > 63) return false;
    value |= int64_t(code & 0x1f) << shift;
    shift += 5;
    if (code & 0x20) continue;
    if (code & 0x10) value -= int64_t(1) << shift;
    return true;
  }
  return false;
}

// Set the box of a mask from its runs.
void find_box(Mask& m, const Run* r) {
  const uint32_t h = uint32_t(m.h);
  m.x0 = int32_t(r[0].begin / h);
  m.x1 = int32_t((r[m.count - 1].end - 1) / h) + 1;
  uint32_t low = h, high = 0;
  uint64_t column = uint64_t(m.x0) * h;  // first pixel of the current column
  for (int64_t i = 0; i < m.count; ++i) {
    if (r[i].begin >= column + h) {
      column += h;  // mostly the next one; spares a division
      if (r[i].begin >= column + h) column = uint64_t(r[i].begin / h) * h;
    }
    if (r[i].end > column + h) {  // reaches over a column end
      low = 0;
      high = h;
      break;
    }
    low = std::min<uint32_t>(low, uint32_t(r[i].begin - column));
    high = std::max<uint32_t>(high, uint32_t(r[i].end - column));
  }
  m.y0 = int32_t(low);
  m.y1 = int32_t(high);
}

// Decode COCO's text: gaps and runs in turn; from the fourth number on, differences from the number
// two before.
int8_t parse(const char* text, int64_t length, Mask& m, std::vector<Run>& pool) {
  const int64_t total = int64_t(m.h) * m.w;
  const size_t first = pool.size();
  pool.resize(first + size_t(length) / 2);  // a gap and a run take at least two characters
  Run* const runs = pool.data() + first;
  int64_t count = 0, area = 0, position = 0, gap = 0, run = 0, value = 0;
  const char* p = text;
  const char* const end = text + length;
  int8_t status = kPresent;
  const auto covers = [&](int64_t pixels) {
    if (pixels >= 0 && pixels <= total - position) return true;
    status = pixels < 0 ? kNegative : kWrongSum;
    return false;
  };
  for (int64_t index = 0; p < end; index += 2) {
    if (!read_number(p, end, value)) {
      status = kBadText;
      break;
    }
    gap = index > 2 ? gap + value : value;
    if (!covers(gap)) break;
    position += gap;
    if (p == end) break;
    if (!read_number(p, end, value)) {
      status = kBadText;
      break;
    }
    run += value;
    if (!covers(run)) break;
    if (!run) continue;
    const uint32_t b = uint32_t(position), e = uint32_t(position + run);
    if (count && runs[count - 1].end == b) runs[count - 1].end = e;
    else runs[count++] = {b, e};
    area += run;
    position += run;
  }
  if (status == kPresent && position != total) status = kWrongSum;
  if (status != kPresent) count = area = 0;
  pool.resize(first + size_t(count));
  m.first = int64_t(first);
  m.count = count;
  m.area = area;
  m.present = status == kPresent;
  if (count) find_box(m, runs);
  return status;
}

inline bool boxes_meet(const Mask& a, const Mask& b) {
  return a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;
}

int64_t common(const Run* a, int64_t na, const Run* b, int64_t nb) {
  int64_t sum = 0;
  const Run* const ea = a + na;
  const Run* const eb = b + nb;
  if (na && nb) {  // skip what lies before the other
    if (a->end <= b->begin)
      a = std::partition_point(a, ea, [&](const Run& r) { return r.end <= b->begin; });
    else if (b->end <= a->begin)
      b = std::partition_point(b, eb, [&](const Run& r) { return r.end <= a->begin; });
  }
  while (a < ea && b < eb) {
    const uint32_t lo = std::max(a->begin, b->begin);
    const uint32_t hi = std::min(a->end, b->end);
    sum += hi > lo ? hi - lo : 0;
    const bool step_a = a->end <= b->end;
    const bool step_b = b->end <= a->end;
    a += step_a;
    b += step_b;
  }
  return sum;
}

// Room for `more` items; grows by doubling, so that many small calls stay linear.
void make_room(std::vector<Run>& v, size_t more) {
  const size_t need = v.size() + more;
  if (need > v.capacity()) v.reserve(std::max(need, 2 * v.capacity()));
}

void intersect(const Run* a, const Run* ea, const Run* b, const Run* eb, std::vector<Run>& out) {
  while (a < ea && b < eb) {
    const uint32_t lo = std::max(a->begin, b->begin);
    const uint32_t hi = std::min(a->end, b->end);
    if (hi > lo) out.push_back({lo, hi});
    if (a->end < b->end) ++a;
    else ++b;
  }
}

// Erode by a (2d+1) x (2d+1) square; the outside of the frame is background.
// Down the columns every run loses d at both ends; across them, windows of 2d+1 columns are
// intersected with the two-pass scheme of van Herk (prefixes and suffixes of blocks).
void erode(Store& s, Mask& m, int32_t d) {
  m.eroded_by = d;
  m.eroded.clear();
  m.eroded_area = 0;
  const int64_t window = 2 * int64_t(d) + 1;
  const int64_t n = m.x1 - m.x0;
  if (!m.present || n < window || m.y1 - m.y0 < window) return;
  const uint32_t h = uint32_t(m.h);
  Columns& col = s.shrunk;
  col.clear();
  col.at.push_back(0);
  const Run* r = s.pool.data() + m.first;
  const Run* const end = r + m.count;
  uint64_t base = uint64_t(m.x0) * h;
  uint32_t from = r->begin;
  for (int64_t i = 0; i < n; ++i, base += h) {
    while (r < end && from < base + h) {
      const uint64_t stop = std::min<uint64_t>(r->end, base + h);
      const uint32_t lo = uint32_t(from - base) + uint32_t(d);
      const int64_t hi = int64_t(stop - base) - d;
      if (hi > int64_t(lo)) col.items.push_back({lo, uint32_t(hi)});
      if (stop == r->end) {
        ++r;
        if (r < end) from = r->begin;
      } else {
        from = uint32_t(stop);
        break;
      }
    }
    col.at.push_back(int64_t(col.items.size()));
  }
  const Run* items = col.items.data();
  // prefix[i]: columns from the start of i's block to i
  Columns& pre = s.prefix;
  pre.clear();
  pre.at.push_back(0);
  for (int64_t i = 0; i < n; ++i) {
    const Run* b = items + col.at[i];
    const Run* e = items + col.at[i + 1];
    if (i % window == 0) {
      pre.items.insert(pre.items.end(), b, e);
    } else {
      const size_t lo = size_t(pre.at[i - 1]), hi = size_t(pre.at[i]);
      make_room(pre.items, (hi - lo) + size_t(e - b) + 1);
      intersect(pre.items.data() + lo, pre.items.data() + hi, b, e, pre.items);
    }
    pre.at.push_back(int64_t(pre.items.size()));
  }
  // suffix[i]: columns from i to the end of i's block
  Columns& suf = s.suffix;
  suf.clear();
  s.suffix_begin.assign(size_t(n), 0);
  s.suffix_end.assign(size_t(n), 0);
  const int64_t last_start = n - window;
  for (int64_t i = n - 1; i >= 0; --i) {
    if (i / window * window > last_start) continue;  // no window starts in this block
    const Run* b = items + col.at[i];
    const Run* e = items + col.at[i + 1];
    const int64_t begin = int64_t(suf.items.size());
    if (i % window == window - 1) {
      suf.items.insert(suf.items.end(), b, e);
    } else {
      const size_t lo = size_t(s.suffix_begin[i + 1]), hi = size_t(s.suffix_end[i + 1]);
      make_room(suf.items, (hi - lo) + size_t(e - b) + 1);
      intersect(suf.items.data() + lo, suf.items.data() + hi, b, e, suf.items);
    }
    s.suffix_begin[i] = begin;
    s.suffix_end[i] = int64_t(suf.items.size());
  }
  for (int64_t i = 0; i <= last_start; ++i) {
    const int64_t j = i + window - 1;
    const size_t before = m.eroded.size();
    const Run* pb = pre.items.data() + pre.at[j];
    const Run* pe = pre.items.data() + pre.at[j + 1];
    if (i % window == 0) {
      m.eroded.insert(m.eroded.end(), pb, pe);
    } else {
      intersect(suf.items.data() + s.suffix_begin[i], suf.items.data() + s.suffix_end[i], pb, pe,
                m.eroded);
    }
    const uint32_t offset = uint32_t((m.x0 + i + d) * int64_t(h));
    for (size_t k = before; k < m.eroded.size(); ++k) {
      m.eroded_area += m.eroded[k].end - m.eroded[k].begin;
      m.eroded[k].begin += offset;
      m.eroded[k].end += offset;
    }
  }
}

inline void need_erosion(Store& s, Mask& m, int32_t d) {
  if (m.eroded_by != d) erode(s, m, d);
}

// One frame of a pair of tubes. Adds to intersection and union; true if the frame vanishes.
inline bool mask_frame(const Store& s, const Mask& a, const Mask& b, int64_t& inter, int64_t& uni) {
  if (a.present && b.present) {
    if (a.h != b.h || a.w != b.w) return true;
    int64_t i = 0;
    if (a.area && b.area && boxes_meet(a, b))
      i = common(s.pool.data() + a.first, a.count, s.pool.data() + b.first, b.count);
    inter += i;
    uni += a.area + b.area - i;
  } else {
    uni += a.area + b.area;
  }
  return false;
}

// The same over boundary regions: with E the eroded mask,
// |bound(a) and bound(b)| = |a and b| - |Ea and b| - |a and Eb| + |Ea and Eb|.
inline bool boundary_frame(Store& s, Mask& a, Mask& b, int32_t da, int32_t db, int64_t& inter,
                           int64_t& uni) {
  if (a.present && b.present && (a.h != b.h || a.w != b.w)) return true;
  if (a.area) need_erosion(s, a, da);
  if (b.area) need_erosion(s, b, db);
  const int64_t area_a = a.area ? a.area - a.eroded_area : 0;
  const int64_t area_b = b.area ? b.area - b.eroded_area : 0;
  int64_t i = 0;
  if (area_a && area_b && boxes_meet(a, b)) {
    const Run* ra = s.pool.data() + a.first;
    const Run* rb = s.pool.data() + b.first;
    const Run* ea = a.eroded.data();
    const Run* eb = b.eroded.data();
    const int64_t na = int64_t(a.eroded.size()), nb = int64_t(b.eroded.size());
    i = common(ra, a.count, rb, b.count) - common(ea, na, rb, b.count) -
        common(ra, a.count, eb, nb) + common(ea, na, eb, nb);
  }
  inter += i;
  uni += area_a + area_b - i;
  return false;
}

inline bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

struct Scanner {
  const char* s;
  int64_t n, i;
  bool mapped;  // s is a read-only file map: pages that were read can be given back
  int64_t dropped = i;
  bool failed = false;

  void trim() {
#if defined(__linux__)
    if (!mapped || i - dropped < (int64_t(8) << 20)) return;
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    const uintptr_t lo = (uintptr_t(s + dropped) + page - 1) / page * page;
    const uintptr_t hi = uintptr_t(s + i) / page * page;
    if (hi > lo) madvise(reinterpret_cast<void*>(lo), hi - lo, MADV_DONTNEED);
    dropped = i;
#endif
  }

  void space() {
    while (i < n && is_space(s[i])) ++i;
  }
  bool take(char c) {
    space();
    if (i < n && s[i] == c) {
      ++i;
      return true;
    }
    return false;
  }
  void string() {  // at the opening quote
    for (++i; i < n; ++i) {
      if (s[i] == '\\') ++i;
      else if (s[i] == '"') {
        ++i;
        return;
      }
    }
    failed = true;
  }
  void value() {
    space();
    if (i >= n) {
      failed = true;
      return;
    }
    if (s[i] == '"') return string();
    if (s[i] == '{' || s[i] == '[') {
      int64_t depth = 0;
      while (i < n) {
        const char c = s[i];
        if (c == '"') {
          string();
          if (failed) return;
          trim();
          continue;
        }
        ++i;
        if (c == '{' || c == '[') ++depth;
        else if ((c == '}' || c == ']') && --depth == 0) return;
      }
      failed = true;
      return;
    }
    const int64_t begin = i;
    while (i < n && !is_space(s[i]) && s[i] != ',' && s[i] != ']' && s[i] != '}') ++i;
    failed = i == begin;
  }
};

}  // namespace

HQ_API int32_t hq_abi_version() { return 1; }

// Parse n masks. heights[i] == 0 marks a missing one. boxes are (x0, y0, x1, y1), ends exclusive.
HQ_API void* hq_store_new(const char* text, const int64_t* lengths, int64_t n,
                          const int32_t* heights, const int32_t* widths, int64_t* areas,
                          int32_t* boxes, int8_t* status) {
  Store* s = nullptr;
  try {
    s = new Store;
    s->masks.resize(size_t(n));
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) total += lengths[i];
    s->pool.reserve(size_t(total / 4 + 16));
    for (int64_t i = 0; i < n; ++i) {
      Mask& m = s->masks[size_t(i)];
      m.h = heights[i];
      m.w = widths[i];
      status[i] = m.h ? parse(text, lengths[i], m, s->pool) : int8_t(kMissing);
      text += lengths[i];
      areas[i] = m.area;
      boxes[4 * i] = m.x0;
      boxes[4 * i + 1] = m.y0;
      boxes[4 * i + 2] = m.x1;
      boxes[4 * i + 3] = m.y1;
    }
    return s;
  } catch (const std::bad_alloc&) {
    delete s;
    return nullptr;
  }
}

// Code n run lengths as COCO's text; out holds 7 n bytes. Returns the number of bytes.
HQ_API int64_t hq_counts_to_text(const int64_t* counts, int64_t n, char* out) {
  char* p = out;
  for (int64_t i = 0; i < n; ++i) {
    int64_t x = counts[i] - (i > 2 ? counts[i - 2] : 0);
    bool more = true;
    while (more) {
      int c = int(x & 0x1f);
      x >>= 5;
      more = (c & 0x10) ? x != -1 : x != 0;
      if (more) c |= 0x20;
      *p++ = char(c + 48);
    }
  }
  return p - out;
}

HQ_API void hq_store_free(void* store) { delete static_cast<Store*>(store); }

// Sums over the frames of tube pairs: masks first_a[k] .. first_a[k] + frames[k] - 1 against
// first_b[k] and on. distances == NULL: over masks; else over boundary regions of those distances
// (one per mask of the store). vanished counts frames whose masks differ in size.
HQ_API int32_t hq_tube_sums(void* store, const int32_t* distances, int64_t pairs,
                            const int64_t* first_a, const int64_t* first_b, const int32_t* frames,
                            int64_t* inter, int64_t* uni, int32_t* vanished) {
  Store& s = *static_cast<Store*>(store);
  try {
    for (int64_t k = 0; k < pairs; ++k) {
      int64_t i = 0, u = 0;
      int32_t gone = 0;
      for (int32_t t = 0; t < frames[k]; ++t) {
        const size_t ia = size_t(first_a[k] + t), ib = size_t(first_b[k] + t);
        Mask& a = s.masks[ia];
        Mask& b = s.masks[ib];
        gone += distances ? boundary_frame(s, a, b, distances[ia], distances[ib], i, u)
                          : mask_frame(s, a, b, i, u);
      }
      inter[k] = i;
      uni[k] = u;
      vanished[k] = gone;
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// Erode one mask; writes up to capacity runs as (begin, end) and the area, returns their number.
HQ_API int64_t hq_eroded(void* store, int64_t index, int32_t d, int64_t capacity, uint32_t* runs,
                         int64_t* area) {
  Store& s = *static_cast<Store*>(store);
  try {
    Mask& m = s.masks[size_t(index)];
    need_erosion(s, m, d);
    *area = m.eroded_area;
    const int64_t count = int64_t(m.eroded.size());
    for (int64_t i = 0; i < std::min(count, capacity); ++i) {
      runs[2 * i] = m.eroded[size_t(i)].begin;
      runs[2 * i + 1] = m.eroded[size_t(i)].end;
    }
    return count;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// Greedy matching by score for every range and threshold (see tube_ap.match_numpy).
// iou (D, G); ignored (R, G); crowd (G); bars (Th); order (R, G) not-ignored first;
// matches (R, Th, D) receives ground-truth columns or -1. taken: scratch of G bytes.
HQ_API void hq_match(int64_t D, int64_t G, int64_t R, int64_t Th, const double* iou,
                     const uint8_t* ignored, const uint8_t* crowd, const double* bars,
                     const int32_t* order, int32_t* matches, uint8_t* taken) {
  for (int64_t r = 0; r < R; ++r) {
    const uint8_t* ign = ignored + r * G;
    const int32_t* ord = order + r * G;
    for (int64_t t = 0; t < Th; ++t) {
      std::memset(taken, 0, size_t(G));
      int32_t* out = matches + (r * Th + t) * D;
      for (int64_t d = 0; d < D; ++d) {
        double best = bars[t];
        int32_t found = -1;
        for (int64_t k = 0; k < G; ++k) {
          const int32_t g = ord[k];
          if (taken[g] && !crowd[g]) continue;
          if (found >= 0 && !ign[found] && ign[g]) break;
          if (iou[d * G + g] < best) continue;
          best = iou[d * G + g];
          found = g;
        }
        out[d] = found;
        if (found >= 0) taken[found] = 1;
      }
    }
  }
}

// Spans of the elements of the JSON array whose items begin at *position (behind the bracket).
// For elements that are objects, also the span of the value of `key` (0, 0 if absent or escaped).
// spans: (capacity, 4) begin, end, value begin, value end. *position moves on; -1 when the array
// closed, *close is then the offset behind the bracket. Returns the number, or -1 on bad syntax.
HQ_API int64_t hq_json_elements(const char* s, int64_t n, int32_t mapped, int64_t* position,
                                const char* key, int64_t key_length, int64_t capacity,
                                int64_t* spans, int64_t* close) {
  Scanner scan{s, n, *position, mapped != 0};
  int64_t count = 0;
  while (count < capacity) {
    scan.space();
    if (scan.i < n && s[scan.i] == ']') {  // a comma before it was refused below
      *close = scan.i + 1;
      *position = -1;
      return count;
    }
    int64_t* span = spans + 4 * count;
    span[0] = scan.i;
    span[2] = span[3] = 0;
    if (scan.i < n && s[scan.i] == '{') {
      ++scan.i;
      bool more = !scan.take('}');
      while (more) {
        scan.space();
        if (scan.i >= n || s[scan.i] != '"') return -1;
        const int64_t k = scan.i + 1;
        scan.string();
        if (scan.failed) return -1;
        const int64_t length = scan.i - 1 - k;
        if (!scan.take(':')) return -1;
        scan.space();
        const int64_t begin = scan.i;
        scan.value();
        if (scan.failed) return -1;
        if (length == key_length && std::memcmp(s + k, key, size_t(length)) == 0) {
          span[2] = begin;
          span[3] = scan.i;
        }
        if (scan.take(',')) continue;
        if (!scan.take('}')) return -1;
        more = false;
      }
    } else {
      scan.value();
      if (scan.failed) return -1;
    }
    span[1] = scan.i;
    ++count;
    if (scan.take(',')) {
      scan.space();
      if (scan.i >= n || s[scan.i] == ']') return -1;  // a comma before the bracket
    } else {
      scan.space();
      if (scan.i >= n || s[scan.i] != ']') return -1;
    }
    scan.trim();
  }
  *position = scan.i;
  return count;
}

// Spans of the members of the JSON object that begins at `position`.
// spans: (capacity, 4) key begin, key end (without quotes), value begin, value end. *close is the
// offset behind the closing brace. Returns the number, -1 on bad syntax, -2 if there are more.
HQ_API int64_t hq_json_members(const char* s, int64_t n, int32_t mapped, int64_t position,
                               int64_t capacity, int64_t* spans, int64_t* close) {
  Scanner scan{s, n, position, mapped != 0};
  if (!scan.take('{')) return -1;
  int64_t count = 0;
  bool more = !scan.take('}');
  while (more) {
    if (count == capacity) return -2;
    int64_t* span = spans + 4 * count++;
    scan.space();
    if (scan.i >= n || s[scan.i] != '"') return -1;
    span[0] = scan.i + 1;
    scan.string();
    if (scan.failed) return -1;
    span[1] = scan.i - 1;
    if (!scan.take(':')) return -1;
    scan.space();
    span[2] = scan.i;
    scan.value();
    if (scan.failed) return -1;
    span[3] = scan.i;
    if (scan.take(',')) continue;
    if (!scan.take('}')) return -1;
    more = false;
  }
  *close = scan.i;
  return count;
}

// Only there so that build tools which expect a Python module find its entry; never imported.
HQ_API void* PyInit__kernel() { return nullptr; }
