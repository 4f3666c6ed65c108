// A list of independent checks, run on several threads.
#pragma once

#include <cstddef>
#include <functional>

#include "formats/base/status.h"

namespace q2c {

// Runs job(0) … job(count − 1). After an error no further job is begun; the error of the
// lowest number is returned.
Status RunParallel(size_t count, unsigned threads, const std::function<Status(size_t)>& job);

}  // namespace q2c
