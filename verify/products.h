// Products of activations with stored linears: y = x · Wᵀ, for one or several sides at once.
// Every side's tile is read and decoded once; a check may look at it on the way.
// The sums do not depend on tiles, strips or threads (kernels.h).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "verify/linear_tiles.h"

namespace q2c {

// Activations, [count][width]; a row takes whole panels.
struct Rows {
  uint64_t count = 0;
  uint64_t width = 0;
  uint64_t stride = 0;
  std::vector<float> data;

  Rows() = default;
  Rows(uint64_t rows, uint64_t columns) : count(rows), width(columns), stride(CeilDiv(columns, kPanelOutputs) * kPanelOutputs), data(count * stride) {}
  float* At(uint64_t row) { return data.data() + row * stride; }
  const float* At(uint64_t row) const { return data.data() + row * stride; }
};

// Looks at the tiles of a strip on the first two sides. One object a strip.
class TileCheck {
 public:
  TileCheck() = default;
  TileCheck(const TileCheck&) = delete;
  TileCheck& operator=(const TileCheck&) = delete;
  virtual ~TileCheck() = default;
  // Errors: kFindings is kept, and the strip goes on without this check; others end everything.
  virtual Status Strip(const LinearTiles& source, const LinearTiles& output) = 0;
  virtual Status Tile(const LinearTiles& source, const LinearTiles& output) = 0;
};

// Looks at a strip of one side. One object a strip; inputs come in order.
class StripWatch {
 public:
  StripWatch() = default;
  StripWatch(const StripWatch&) = delete;
  StripWatch& operator=(const StripWatch&) = delete;
  virtual ~StripWatch() = default;
  virtual void Tile(const LinearTiles& tiles) = 0;
  // The weights of `inputs` further inputs for up to kPanelOutputs outputs from output `column`
  // of the strip on, as FillPanel makes them.
  virtual void Panel(uint64_t column, uint64_t inputs, const float* panel) = 0;
  virtual void End() = 0;
};

struct LinearTask {
  struct Side {
    StoredLinear linear;
    const Rows* x = nullptr;  // null: nothing to multiply
    Rows* y = nullptr;        // [x->count][out_features], zeros to begin with
    // Makes the watch of one strip, from any thread; may be empty.
    std::function<std::unique_ptr<StripWatch>(uint64_t first_output)> watch = nullptr;
    ChannelView view = {};    // for a check, which sees the same channels on both sides
    // Multiply with offsets as they are stored, as a loader does, even where they are whole zero
    // points but for their rounding. A watch sees the zero points all the same.
    bool stored_offsets = false;
  };
  std::vector<Side> sides;  // without a check they may have more or fewer channels than each other
  // Told of every strip before any runs; may be empty.
  std::function<void(uint64_t first_output)> begin_strip;
  // Makes the check of one strip, from any thread; may be empty.
  std::function<std::unique_ptr<TileCheck>(uint64_t first_output)> check;
  std::optional<Error> mismatch;  // the first that a check found
};

struct RunOptions {
  unsigned jobs = 1;
  std::function<Status()> check_stop;
  std::function<void(uint64_t bytes)> progress;  // stored bytes of the last side
};

// Errors: those of reading; never a mismatch.
Status RunLinears(std::vector<LinearTask>* tasks, const RunOptions& options);

}  // namespace q2c
