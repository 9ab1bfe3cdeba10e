#include <exception>
#include <iostream>

#include "errors.h"
#include "run.h"

int main(int argc, char** argv) {
  try {
    const infer::Options options = infer::parse_options({argv + 1, argv + argc});
    if (options.help) {
      std::cout << infer::usage();
      return 0;
    }
    return infer::run(options);
  } catch (const infer::OutputError& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
