#include "formats/base/program.h"

#ifdef Q2C_STATIC
#include <openssl/crypto.h>
#endif

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "formats/base/json.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

std::string_view g_name;  // set once, before anything runs
std::atomic<int> g_signal = 0;
std::atomic<int> g_signals = 0;
extern "C" void OnSignal(int number) {
  g_signal = number;
  ++g_signals;
}

}  // namespace

int RunProgram(std::string_view name, int (*run)(int argc, char** argv), int argc, char** argv) {
  g_name = name;
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
#ifdef Q2C_STATIC
  // The system's openssl.cnf may name modules to load, which were built for another libcrypto and another libc.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
#endif
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "{}: error: out of memory [internal]\n", name);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: error: unexpected: {}; please report it [internal]\n", name, Escape(error.what()));
  }
  return Exit(Code::kInternal);
}

const std::atomic<int>& StopSignal() { return g_signal; }
const std::atomic<int>& StopCount() { return g_signals; }

int ExitWith(const Error& error, bool json) {
  fmt::print(stderr, "{}: error: {}\n", g_name, error.Text());
  if (json) {
    const Json document = Json::Object({{"schema", Json::Integer(1)}, {"ok", Json::Bool(false)}, {"exit", Json::Integer(Exit(error.code))},
                                        {"error", Json::Object({{"id", Json::String(error.id)}, {"message", Json::String(error.message)}})}});
    fmt::print("{}\n", document.Dump());
  }
  return Exit(error.code);
}

int Print(const std::string& text, Code code) {
  if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) return ExitWith(MakeError(Code::kIo, "stdout", "writing to standard output failed"));
  return Exit(code);
}

}  // namespace q2c
