// The engine `wheel` in a library of its own, which is loaded where it is asked for: a program that
// does not need Python does not load it.

#include <dlfcn.h>

#include <string>

#include "engine.h"
#include "errors.h"

namespace speech::internal {

std::unique_ptr<Engine> make_wheel(const EngineOptions& options) {
  // Of its symbols, modules of Python need those of libpython. Never closed: Python cannot start
  // twice.
  static void* const module = ::dlopen(WHEEL_MODULE, RTLD_NOW | RTLD_GLOBAL);
  const char* const failure = module == nullptr ? ::dlerror() : nullptr;
  void* const found = module != nullptr ? ::dlsym(module, "speech_make_wheel") : nullptr;
  if (found == nullptr)
    throw UsageError(std::string("the engine wheel cannot be loaded: ") +
                     (failure != nullptr ? failure : WHEEL_MODULE));
  const auto make = reinterpret_cast<Engine* (*)(const EngineOptions&)>(found);
  return std::unique_ptr<Engine>(make(options));
}

}  // namespace speech::internal
