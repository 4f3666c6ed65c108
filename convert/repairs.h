// The repairs: everything a plan may change of a checkpoint beside the layout that the target
// wants. One table; a repair has the id of the finding it answers.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/json.h"
#include "formats/base/status.h"

namespace q2c {

// What becomes of a checkpoint that needs a repair which the user does not want.
enum class Without {
  kLeft,     // it stays as it is, and the plan says so
  kRefused,  // nothing is written: the output would be another model, or none
  kNothing,  // the repair is part of writing files and cannot be left out
};

struct Repair {
  std::string_view id;
  std::string_view pass;  // that makes it
  std::string_view what;  // is done
  std::string_view when;
  Without without = Without::kLeft;
};
std::span<const Repair> Repairs();
// The row; null for an unknown id.
const Repair* FindRepair(std::string_view id);

// Which repairs the user wants; all, unless said otherwise.
class RepairChoice {
 public:
  RepairChoice() = default;
  // Errors: kUsage for an id that is not in the table, and for one that cannot be left out.
  static Result<RepairChoice> Make(const std::vector<std::string>& only, const std::vector<std::string>& skip);
  bool Wants(std::string_view id) const;
  // "--skip=names" or "--only=…": why a repair is not made.
  std::string Why(std::string_view id) const;

 private:
  std::set<std::string, std::less<>> only_;  // empty: all
  std::set<std::string, std::less<>> skip_;
};

// What a plan makes of one repair.
struct RepairDone {
  bool made = false;    // else left undone because the user wants it so
  uint64_t count = 0;   // of tensors, linears, keys or files
  std::string first;    // one of them
};
using RepairsDone = std::map<std::string, RepairDone, std::less<>>;

// The table, for people and for programs.
std::string RepairsText();
Json RepairsJson();

}  // namespace q2c
