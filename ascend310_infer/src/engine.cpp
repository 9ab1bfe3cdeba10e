#include "engine.h"

#include <algorithm>

#include "errors.h"

namespace speech::internal {

// Each is defined in a file of its own, which is compiled if its library is there.
std::unique_ptr<Engine> make_openvino(const EngineOptions&);
std::string openvino_embedded(const fs::path& model);
std::unique_ptr<StreamNetwork> make_openvino_stream(const Description&, int threads);
std::unique_ptr<Engine> make_lite(const EngineOptions&);
std::unique_ptr<Engine> make_wheel(const EngineOptions&);
std::unique_ptr<Engine> make_fake(const EngineOptions&);

namespace {

bool runs(const EngineKind& kind, const fs::path& model) {
  return kind.files.empty() ||
         std::count(kind.files.begin(), kind.files.end(), model.extension().string()) > 0;
}

// What to do where no engine runs such a file on the target.
std::string remedy(const std::string& target, const fs::path& model) {
  if (target == "Ascend") return "build it again with LITE_HOME set to a MindSpore Lite package";
  if (model.extension() == ".onnx")
    return "install OpenVINO (bash scripts/setup.sh requirements-cpp.txt) and build it again";
  return "build it again with a Python that has MindSpore, or give an ONNX file "
         "(export.py --file_format ONNX)";
}

Description describe_any(const fs::path& model);

}  // namespace

const std::vector<EngineKind>& engine_kinds() {
  static const std::vector<EngineKind> kinds{
#ifdef WITH_FAKE
      {"fake", "a formula, for tests", {"CPU", "Ascend"}, {}, make_fake},
#endif
#ifdef WITH_OPENVINO
      {"openvino",
       "OpenVINO: ONNX files on a CPU",
       {"CPU"},
       {".onnx"},
       make_openvino,
       true,
       openvino_embedded,
       make_openvino_stream},
#endif
#ifdef WITH_WHEEL
      {"wheel",
       "the MindSpore wheel of a Python: MindIR files on a CPU",
       {"CPU"},
       {".mindir"},
       make_wheel},
#endif
#ifdef WITH_LITE
      {"lite",
       "MindSpore Lite: MindIR files on Ascend 310 and 310P and on a CPU",
       {"Ascend", "CPU"},
       {".mindir", ".ms"},
       make_lite},
#endif
  };
  return kinds;
}

Description describe_model(const fs::path& model) {
  Description description = describe_any(model);
  if (description.stream)
    throw UsageError(model.string() +
                     ": takes a recording piece by piece (--stream); export the checkpoint without "
                     "--streaming for whole recordings");
  return description;
}

Description describe_stream(const fs::path& model) {
  Description description = describe_any(model);
  if (!description.stream)
    throw UsageError(model.string() +
                     ": takes whole recordings; for a stream export the checkpoint with export.py "
                     "--file_format ONNX --streaming");
  return description;
}

std::unique_ptr<StreamNetwork> make_stream_network(const Description& description, int threads) {
  const fs::path& file = description.buckets.front().file;
  const EngineKind& kind = choose_engine("", "CPU", file);
  if (kind.make_stream == nullptr)
    throw UsageError(file.string() + ": the engine " + kind.name + " runs whole recordings alone");
  return kind.make_stream(description, threads);
}

namespace {

Description describe_any(const fs::path& model) {
  if (model.extension() == ".onnx" && !fs::exists(model))
    throw UsageError(model.string() + ": no such file");
  if (model.extension() == ".onnx" && fs::is_regular_file(model) && fs::file_size(model) == 0)
    throw UsageError(model.string() + ": empty; export it anew, or copy it again");
  bool looked_inside = model.extension() != ".onnx";
  for (const EngineKind& kind : engine_kinds()) {
    if (model.extension() != ".onnx" || kind.embedded == nullptr) continue;
    looked_inside = true;
    if (const std::string text = kind.embedded(model); !text.empty())
      return embedded_description(text, model);
  }
  try {
    return read_description(model);
  } catch (const UsageError&) {
    if (!looked_inside) choose_engine("", "CPU", model);  // refuses, and says what to install
    throw;
  }
}

}  // namespace

const EngineKind& choose_engine(const std::string& name, const std::string& target,
                                const fs::path& model) {
  std::string names;
  for (const EngineKind& kind : engine_kinds()) {
    names += (names.empty() ? "" : ", ") + kind.name;
    if (!name.empty() && kind.name != name) continue;
    const bool serves = std::count(kind.targets.begin(), kind.targets.end(), target) > 0;
    if (serves && runs(kind, model)) return kind;
    if (!name.empty() && !serves)
      throw UsageError("--engine " + name + " does not serve " + target);
    if (!name.empty())
      throw UsageError("--engine " + name + " does not run " + model.extension().string() +
                       " files, as " + model.string() + " is");
  }
  if (names.empty()) names = "no engine";
  if (!name.empty())
    throw UsageError("--engine " + name + ": this program was built with " + names +
                     " alone; see build.sh");
  throw UsageError(model.string() + ": no engine for it on " + target +
                   ": this program was built with " + names + " alone; " + remedy(target, model));
}

}  // namespace speech::internal
