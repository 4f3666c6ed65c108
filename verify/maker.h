// Who made a checkpoint: the software and its versions, from what it leaves behind.
#pragma once

#include <string>
#include <vector>

#include "verify/checks/checks.h"

namespace q2c {

struct Maker {
  std::string name;      // "AutoGPTQ"; "unknown"
  std::string versions;  // "0.7.0 to 0.7.1"; empty: not known
  bool resaved = false;  // loaded and saved again by transformers, it seems
  std::vector<std::string> evidence;
};

Maker FindMaker(const CheckInput& input);

}  // namespace q2c
