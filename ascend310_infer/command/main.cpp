#include <cstdlib>
#include <exception>
#include <iostream>

#include "errors.h"
#include "run.h"

namespace internal = speech::internal;

namespace {

int status(int argc, char** argv) {
  try {
    const internal::Options options = internal::parse_options({argv + 1, argv + argc});
    if (options.help) {
      std::cout << internal::usage();
      return 0;
    }
    return internal::run(options);
  } catch (const internal::OutputError& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int code = status(argc, argv);
  // All output is written. Ending the engines' libraries in order would take time, and tell
  // nothing.
  std::cout.flush();
  std::_Exit(code);
}
