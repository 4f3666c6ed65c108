#include "convert/zoo_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>

#include "formats/base/system.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

[[noreturn]] void RunChild(pid_t parent, int pipe, const sigset_t& signals, const std::function<std::string()>& work) {
  os::DieWithParent(parent);
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  for (const int number : {SIGINT, SIGHUP}) ::sigaction(number, &action, nullptr);
  action.sa_handler = SIG_DFL;
  ::sigaction(SIGTERM, &action, nullptr);
  (void)::pthread_sigmask(SIG_SETMASK, &signals, nullptr);
  if (const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC); null >= 0) ::dup2(null, STDIN_FILENO);
  std::string text;
  try {
    text = work();
  } catch (const std::exception&) {
    ::abort();  // out of memory, most likely: ended by a signal, as a crash
  }
  for (std::string_view left = text; !left.empty();) {
    const ssize_t count = ::write(pipe, left.data(), left.size());
    if (count < 0 && errno != EINTR) ::_exit(1);
    if (count > 0) left.remove_prefix(static_cast<size_t>(count));
  }
  ::_exit(0);
}

}  // namespace

std::string ProcessName::Short() const { return fmt::format("{}-{}-{}", host, pid, started); }

Json ProcessName::ToJson() const {
  return Json::Object({{"host", Json::String(host)}, {"boot", Json::String(boot)}, {"pid_space", Json::String(pid_space)}, {"pid", Json::Integer(pid)}, {"started", Json::Integer(started)}});
}

ProcessName ThisProcess() {
  std::array<char, 256> host{};
  (void)::gethostname(host.data(), host.size() - 1);
  std::string name;
  for (const char c : std::string_view(host.data())) name += std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' ? c : '_';
  const auto pid = static_cast<uint64_t>(::getpid());
  return {name.empty() ? "host" : name, os::BootId(), os::PidSpace(), pid, os::StartOf(pid)};
}

std::optional<ProcessName> ParseProcessName(const Json& json) {
  const auto text = [&](std::string_view key) { return json.Find(key) != nullptr && json.Find(key)->is_string() ? json.Find(key)->text() : ""; };
  const auto number = [&](std::string_view key) { return json.Find(key) != nullptr ? json.Find(key)->AsU64() : std::nullopt; };
  ProcessName name{text("host"), text("boot"), text("pid_space"), number("pid").value_or(0), number("started").value_or(0)};
  if (name.boot.empty() || name.pid == 0 || name.started == 0) return std::nullopt;
  return name;
}

bool IsKnownDead(const ProcessName& process) {
  static const ProcessName self = ThisProcess();
  if (process.boot != self.boot || process.pid_space != self.pid_space || self.boot.empty() || self.pid_space.empty()) return false;
  return os::StartOf(process.pid) != process.started;
}

Children::~Children() {
  for (const Running& child : running_) ::kill(child.pid, SIGKILL);
  for (const Running& child : running_) {
    while (::waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

Result<uint64_t> Children::Start(const std::function<std::string()>& work) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return MakeError(Code::kIo, "fork", "no pipe to a child: {}", std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  Fd reading(ends[0]);
  Fd writing(ends[1]);
  for (const int end : ends) (void)::fcntl(end, F_SETFD, FD_CLOEXEC);
  (void)std::fflush(nullptr);  // or the child would write it again
  const pid_t parent = ::getpid();
  // No signal reaches the child before it has said what signals mean to it.
  sigset_t every {};
  sigset_t before {};
  ::sigfillset(&every);
  (void)::pthread_sigmask(SIG_SETMASK, &every, &before);
  const pid_t pid = ::fork();
  if (pid == 0) RunChild(parent, writing.get(), before, work);
  const int why = errno;
  (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return MakeError(Code::kIo, "fork", "no child process: {}", std::strerror(why));  // NOLINT(concurrency-mt-unsafe)
  running_.push_back({next_, pid, std::move(reading), {}});
  return next_++;
}

std::vector<Children::Ended> Children::Wait(int milliseconds) {
  std::vector<pollfd> polled;
  for (const Running& child : running_) polled.push_back({child.pipe.get(), POLLIN, 0});
  std::vector<Ended> ended;
  if (::poll(polled.data(), polled.size(), milliseconds) <= 0) return ended;
  for (size_t i = polled.size(); i-- > 0;) {
    if (polled[i].revents == 0) continue;
    Running& child = running_[i];
    std::array<char, 1 << 16> piece{};
    const ssize_t count = ::read(child.pipe.get(), piece.data(), piece.size());
    if (count > 0) child.text.append(piece.data(), static_cast<size_t>(count));
    if (count > 0 || (count < 0 && errno == EINTR)) continue;
    int state = 0;
    struct rusage used {};
    while (::wait4(child.pid, &state, 0, &used) < 0 && errno == EINTR) {
    }
    const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
    const bool whole = WIFEXITED(state) && WEXITSTATUS(state) == 0;
    ended.push_back({child.id, whole ? std::move(child.text) : "", WIFSIGNALED(state) ? WTERMSIG(state) : 0, seconds(used.ru_utime) + seconds(used.ru_stime), static_cast<uint64_t>(used.ru_maxrss) * 1024});
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return ended;
}

void Children::Signal(uint64_t id, int number) const {
  for (const Running& child : running_) {
    if (child.id == id) ::kill(child.pid, number);
  }
}

}  // namespace q2c
