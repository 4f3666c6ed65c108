// Makes the original files of an undo record again from an output: the one way from record to
// bytes, gone by --restore and, before it is promised, by --undo itself.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "convert/plan.h"
#include "convert/undo_record.h"

namespace q2c {

// Can the parts of this layout be made again from another layout that passes as well, bit by bit?
bool IsInvertible(const Layout& layout);

// Safe to use from several threads.
class Rebuilder {
 public:
  // `record` must outlive it; `out` is the folder of the output. What the record says of linears
  // is held against the tensors that lie there. Errors: kMalformed "undo-damaged"; those of opening.
  static Result<std::unique_ptr<Rebuilder>> Open(const UndoRecord& record, const std::string& out, Links links);
  Rebuilder(const Rebuilder&) = delete;
  Rebuilder& operator=(const Rebuilder&) = delete;

  // Hands over all bytes of an original file in order, in pieces that begin at `offset`.
  using Piece = std::function<Status(uint64_t offset, MutableBytes bytes)>;
  Status Stream(const UndoFile& file, const Piece& piece) const;

 private:
  Rebuilder(const UndoRecord& record, Location location) : record_(record), location_(std::move(location)) {}
  Status OpenLinears(const std::string& out, Links links);
  Status OpenLinear(const UndoLinear& said, size_t index);
  Status PlanParts();

  const UndoRecord& record_;
  const Location location_;
  std::unique_ptr<const Checkpoint> checkpoint_;  // of the output; only where there are linears
  Model model_;                          // holds the checkpoint, and nothing of its own
  Plan plan_;                            // holds the model: what Produce reads from
  std::vector<Linear> linears_;          // as the output stores them, by index into the record's
  std::vector<PlannedLinear> originals_;  // the same as the input stored them
  std::map<std::pair<size_t, std::string>, PlannedTensor> parts_;
};

}  // namespace q2c
