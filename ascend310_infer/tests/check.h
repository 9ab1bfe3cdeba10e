// As little of a test framework as these tests need: nothing to install where they run.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int failures = 0;

inline bool add(const char* name, void (*run)()) {
  tests().push_back({name, run});
  return true;
}

inline void that(bool good, const char* what, const char* file, int line) {
  if (good) return;
  ++failures;
  std::printf("%s:%d: %s\n", file, line, what);
}

// Whether it throws an `Error` whose message holds `text`; other exceptions pass.
template <class Error>
bool throws(const std::function<void()>& action, const std::string& text) {
  try {
    action();
  } catch (const Error& error) {
    const bool found = std::string(error.what()).find(text) != std::string::npos;
    if (!found) std::printf("said: %s\n", error.what());
    return found;
  }
  std::printf("nothing was thrown\n");
  return false;
}

}  // namespace check

#define TEST(name)                                          \
  static void name();                                       \
  static const bool name##_added = check::add(#name, name); \
  static void name()

#define CHECK(condition) check::that((condition), #condition, __FILE__, __LINE__)
#define CHECK_THROWS(Error, text, ...)                                             \
  check::that(check::throws<Error>([&] { static_cast<void>(__VA_ARGS__); }, text), \
              #__VA_ARGS__ " throws " #Error, __FILE__, __LINE__)
