#include "engine.h"

#include <algorithm>

#include "errors.h"

namespace speech::internal {

// Each is defined in a file of its own, which is compiled if its library is there.
std::unique_ptr<Engine> make_lite(const EngineOptions&);
std::unique_ptr<Engine> make_wheel(const EngineOptions&);
std::unique_ptr<Engine> make_fake(const EngineOptions&);

Input zero_input(const Bucket& bucket, std::int64_t dimension) {
  Input input;
  input.batch = bucket.batch != 0 ? bucket.batch : 1;
  input.dimension = dimension;
  input.frames = bucket.frames != 0 ? bucket.frames : 64;
  input.features.resize(static_cast<std::size_t>(input.batch * dimension * input.frames));
  input.lengths.assign(static_cast<std::size_t>(input.batch),
                       static_cast<std::int32_t>(input.frames));
  return input;
}

const std::vector<EngineKind>& engine_kinds() {
  static const std::vector<EngineKind> kinds{
#ifdef WITH_FAKE
      {"fake", "a formula, for tests", {"CPU", "Ascend"}, make_fake},
#endif
#ifdef WITH_WHEEL
      {"wheel", "the MindSpore wheel of a Python, on the CPU", {"CPU"}, make_wheel},
#endif
#ifdef WITH_LITE
      {"lite",
       "MindSpore Lite, on Ascend 310 and 310P and on the CPU",
       {"Ascend", "CPU"},
       make_lite},
#endif
  };
  return kinds;
}

const EngineKind& choose_engine(const std::string& name, const std::string& target) {
  std::string names;
  for (const EngineKind& kind : engine_kinds()) {
    names += (names.empty() ? "" : ", ") + kind.name;
    if (!name.empty() && kind.name != name) continue;
    if (std::count(kind.targets.begin(), kind.targets.end(), target) > 0) return kind;
    if (!name.empty()) throw UsageError("--engine " + name + " does not serve " + target);
  }
  if (!name.empty())
    throw UsageError("--engine " + name + ": this program was built with " + names +
                     " alone; see build.sh");
  throw UsageError("no engine for " + target + ": this program was built with " + names +
                   " alone; build it again with LITE_HOME set to a MindSpore Lite package");
}

}  // namespace speech::internal
