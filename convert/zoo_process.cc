#include "convert/zoo_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>

#include "formats/base/text.h"

namespace q2c {
namespace {

// Files of /proc have no size, so they are read as streams.
std::string ReadProc(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// The 22nd field of /proc/PID/stat; the second holds the program's name in brackets, which may hold
// anything. 0 if there is no such process, or only the remains of one that nobody has awaited.
uint64_t StartOf(uint64_t pid) {
  const std::string text = ReadProc(fmt::format("/proc/{}/stat", pid));
  size_t at = text.rfind(')');
  if (at == std::string::npos || at + 2 >= text.size() || text[at + 2] == 'Z' || text[at + 2] == 'X') return 0;
  constexpr int kFieldsBetween = 20;
  for (int i = 0; i < kFieldsBetween && at != std::string::npos; ++i) at = text.find(' ', at + 1);
  if (at == std::string::npos) return 0;
  return Json::Number(text.substr(at + 1, text.find(' ', at + 1) - at - 1)).AsU64().value_or(0);
}

std::string PidSpace() {
  std::array<char, 64> target{};
  const ssize_t length = ::readlink("/proc/self/ns/pid", target.data(), target.size());
  return length < 0 ? "" : std::string(target.data(), static_cast<size_t>(length));
}

[[noreturn]] void RunChild(pid_t parent, int pipe, const sigset_t& signals, const std::function<std::string()>& work) {
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died before we asked to be told
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
  return {name.empty() ? "host" : name, ReadProc("/proc/sys/kernel/random/boot_id"), PidSpace(), pid, StartOf(pid)};
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
  return StartOf(process.pid) != process.started;
}

uint64_t FreeMemory() {
  const std::string info = ReadProc("/proc/meminfo");
  constexpr std::string_view kAvailable = "MemAvailable:";
  uint64_t bytes = UINT64_MAX;
  if (const size_t at = info.find(kAvailable); at != std::string::npos) {
    const size_t number = info.find_first_not_of(' ', at + kAvailable.size());
    const std::optional<uint64_t> kib = Json::Number(info.substr(number, info.find(' ', number) - number)).AsU64();
    if (kib.has_value()) bytes = *kib * 1024;
  }
  // Version 2 of control groups: "0::/path".
  const std::string group = ReadProc("/proc/self/cgroup");
  if (group.starts_with("0::/")) {
    const std::string folder = "/sys/fs/cgroup" + group.substr(3, group.find('\n') - 3);
    const std::optional<uint64_t> most = Json::Number(ReadProc(folder + "/memory.max")).AsU64();
    const std::optional<uint64_t> used = Json::Number(ReadProc(folder + "/memory.current")).AsU64();
    if (most.has_value() && used.has_value() && *used < *most) bytes = std::min(bytes, *most - *used);
  }
  return bytes;
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
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return MakeError(Code::kIo, "fork", "no pipe to a child: {}", std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  Fd reading(ends[0]);
  Fd writing(ends[1]);
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
