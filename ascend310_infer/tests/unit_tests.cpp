// unit_tests [NAME ...]: all of them, or those whose names contain one of the words.

#include <cstdio>
#include <cstring>
#include <exception>

#include "check.h"

int main(int argc, char** argv) {
  int run = 0;
  for (const check::Test& test : check::tests()) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strstr(test.name, argv[i]) != nullptr;
    if (!wanted) continue;
    const int before = check::failures;
    try {
      test.run();
    } catch (const std::exception& error) {
      ++check::failures;
      std::printf("threw %s\n", error.what());
    }
    ++run;
    if (check::failures != before) std::printf("FAILED %s\n", test.name);
  }
  std::printf("%d tests, %d failures\n", run, check::failures);
  return check::failures == 0 && run > 0 ? 0 : 1;
}
