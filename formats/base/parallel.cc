#include "formats/base/parallel.h"

#include <atomic>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "formats/base/timings.h"

namespace q2c {

Status RunParallel(size_t count, unsigned threads, const std::function<Status(size_t)>& job) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::map<size_t, Error> errors;
  const auto work = [&, stage = CurrentStage()] {
    const Timed timed(stage);
    for (size_t i = next++; i < count; i = next++) {
      Status status = job(i);
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      errors.emplace(i, std::move(status).TakeError());
      next = count;
    }
  };
  {
    std::vector<std::jthread> workers;
    for (unsigned t = 1; t < threads; ++t) workers.emplace_back(work);
    work();
  }
  if (!errors.empty()) return std::move(errors.begin()->second);
  return {};
}

}  // namespace q2c
