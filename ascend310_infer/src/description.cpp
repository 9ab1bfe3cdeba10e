#include "description.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "errors.h"
#include "files.h"
#include "json.h"

namespace speech::internal {
namespace {

constexpr std::int64_t kMaxCount = std::int64_t{1} << 31;  // no count in a description is larger

const Json& member(const Json& object, const std::string& key) {
  const Json* found = find_member(object, key);
  if (found == nullptr) throw std::invalid_argument("has no " + json_text(key));
  return *found;
}

std::string text_of(const Json& object, const std::string& key) {
  const auto* text = member(object, key).get_ptr<const Json::string_t*>();
  if (text == nullptr || text->empty()) throw std::invalid_argument(json_text(key) + " is no text");
  return *text;
}

std::int64_t whole(const Json& value, const std::string& what, std::int64_t least) {
  std::int64_t result = 0;
  if (!to_integer(value, result) || result < least || result > kMaxCount)
    throw std::invalid_argument(what + ": expected a whole number, at least " +
                                std::to_string(least));
  return result;
}

// Size of an axis; -1 and 0 mean an open one.
std::int64_t axis(const Json& value, const std::string& what) {
  return std::max<std::int64_t>(0, whole(value, what, -1));
}

// What run_infer_310.sh has converter_lite make of NAME.mindir for a card is NAME.offline.mindir.
constexpr std::string_view kOffline = ".offline";

bool is_offline(const fs::path& model) {
  const std::string name = model.filename().string();
  return name.find(std::string(kOffline) + ".mindir") != std::string::npos ||
         name.find(std::string(kOffline) + "_graph.mindir") != std::string::npos;
}

// MindSpore splits a model above 1 GB into NAME_graph.mindir and a folder NAME_variables.
fs::path graph_file(const fs::path& file) {
  if (fs::exists(file)) return file;
  const fs::path graph = file.parent_path() / (file.stem().string() + "_graph.mindir");
  return fs::exists(graph) ? graph : file;
}

bool shorter(const Bucket& left, const Bucket& right) {
  const auto open_last = [](std::int64_t frames) {
    return frames == 0 ? std::numeric_limits<std::int64_t>::max() : frames;
  };
  if (left.frames != right.frames) return open_last(left.frames) < open_last(right.frames);
  return left.batch < right.batch;
}

void read_inputs(const Json& root, Description& result, Bucket& only) {
  const Json& inputs = member(root, "inputs");
  const Json* kind = find_member(root, "input");
  if (kind != nullptr && *kind == "stream") {
    const Json& shape = member(root, "streaming");
    result.stream = {whole(member(shape, "stride"), "\"stride\"", 1),
                     whole(member(shape, "delay"), "\"delay\"", 0)};
  }
  if (!inputs.is_array() || inputs.size() != (result.stream ? 3 : 2))
    throw std::invalid_argument("\"inputs\": expected two, features or samples, and lengths");
  const Json& shape = member(inputs.front(), "shape");
  if (kind != nullptr && !result.stream) {
    if (*kind != "samples" && *kind != "features")
      throw std::invalid_argument("\"input\": expected \"samples\" or \"features\"");
    result.takes_samples = *kind == "samples";
  }
  if (result.takes_samples) {
    if (!shape.is_array() || shape.size() != 2)
      throw std::invalid_argument("the shape of the samples: expected [utterance, sample]");
    only.batch = axis(shape[0], "utterances of a batch");
    result.dimension = 1;
    only.frames = axis(shape[1], "samples");
    return;
  }
  if (!shape.is_array() || shape.size() != 3)
    throw std::invalid_argument("the shape of the features: expected [utterance, bin, frame]");
  only.batch = axis(shape[0], "utterances of a batch");
  result.dimension = whole(shape[1], "bins of the features", 1);
  only.frames = axis(shape[2], "frames of the features");
}

Vocabulary read_labels(const Json& root) {
  const Json& labels = member(root, "labels");
  if (!labels.is_array() || labels.size() < 2)
    throw std::invalid_argument("\"labels\": expected a list of at least two");
  Vocabulary vocabulary;
  for (const Json& label : labels) {
    if (!label.is_string()) throw std::invalid_argument("\"labels\": expected texts");
    vocabulary.labels.push_back(label.get<std::string>());
  }
  if (const Json* index = find_member(root, "blank"); index != nullptr) {
    vocabulary.blank = static_cast<std::size_t>(whole(*index, "\"blank\"", 0));
    if (vocabulary.blank >= vocabulary.labels.size())
      throw std::invalid_argument("\"blank\": there is no such label");
    return vocabulary;
  }
  const auto blank = std::find(vocabulary.labels.begin(), vocabulary.labels.end(), "_");
  if (blank == vocabulary.labels.end())
    throw std::invalid_argument("\"labels\": none is \"_\", the blank of CTC");
  vocabulary.blank = static_cast<std::size_t>(blank - vocabulary.labels.begin());
  return vocabulary;
}

void read_features(const Json& root, Description& result) {
  const Json* features = find_member(root, "features");
  if (features == nullptr || features->is_null()) return;
  result.features = std::make_shared<const Json>(*features);
  const Json* rate = find_member(*features, "sample_rate");
  const Json* stride = find_member(*features, "window_stride");
  if (rate == nullptr || stride == nullptr) return;
  const auto samples = static_cast<double>(whole(*rate, "\"sample_rate\"", 1));
  const double seconds = stride->is_number() ? stride->get<double>() : 0;
  if (!(seconds > 0 && seconds < 1))
    throw std::invalid_argument("\"window_stride\": expected seconds");
  const double hop = std::nearbyint(samples * seconds);
  result.frame_seconds = (result.takes_samples ? 1 : hop) / samples;
  if (result.takes_samples) result.hop = std::max<std::int64_t>(1, std::llround(hop));
}

// Throws UsageError where there is no file, or an empty one.
std::uintmax_t size_of_model(const fs::path& file) {
  try {
    const auto bytes = bytes_of(file);
    if (bytes == 0) throw InputError(file.string() + ": empty");
    return bytes;
  } catch (const InputError& error) {
    throw UsageError(std::string("the model cannot be read: ") + error.what());
  }
}

void check_graph(const Description& description, const Bucket& bucket, bool ascend,
                 const std::string& again) {
  const GraphFacts& graph = *bucket.graph;
  const auto uses = [&graph](const char* name) { return graph.operators.count(name) > 0; };
  if (ascend && uses("LSTM"))
    throw UsageError(bucket.file.string() +
                     ": uses the operator LSTM, of CPU and GPU, which Ascend lacks" + again);
  if (!ascend && uses("DynamicRNN"))
    throw UsageError(bucket.file.string() +
                     ": uses the operator DynamicRNN, of Ascend, which this device lacks" + again);
  const auto wrong = [&](const std::string& what) {
    throw UsageError(bucket.file.string() + ": " + what + ", and " +
                     description.path.filename().string() + " describes another; export both anew");
  };
  if (graph.inputs.size() != 2) wrong("has " + std::to_string(graph.inputs.size()) + " inputs");
  const GraphInput &features = graph.inputs[0], &lengths = graph.inputs[1];
  const std::vector<std::int64_t>& shape = features.shape;
  if (shape.size() != 3 || lengths.shape.size() != 1)
    wrong("its inputs have " + std::to_string(shape.size()) + " and " +
          std::to_string(lengths.shape.size()) + " axes");
  if ((features.type != "float32" && features.type != "float16") || lengths.type != "int32")
    wrong("its features are not float32 or float16, or its lengths not int32");
  if (shape[1] > 0 && shape[1] != description.dimension)
    wrong("takes features of " + std::to_string(shape[1]) + " bins, not " +
          std::to_string(description.dimension));
  if ((shape[0] > 0 && shape[0] != bucket.batch) || (shape[2] > 0 && shape[2] != bucket.frames))
    wrong("takes batches of " + std::to_string(shape[0]) + " x " + std::to_string(shape[2]) +
          " frames, not " + std::to_string(bucket.batch) + " x " + std::to_string(bucket.frames));
}

// "graph" of a bucket.
GraphFacts read_graph(const Json& value) {
  GraphFacts graph;
  graph.bytes = whole(member(value, "bytes"), "\"bytes\" of a graph", 1);
  if (const Json* version = find_member(value, "mind_ir_version"); version != nullptr)
    graph.version = whole(*version, "\"mind_ir_version\" of a graph", 0);
  const Json& inputs = member(value, "inputs");
  const Json& operators = member(value, "operators");
  if (!inputs.is_array() || !operators.is_array())
    throw std::invalid_argument("\"graph\": expected lists of inputs and operators");
  for (const Json& input : inputs) {
    GraphInput& added = graph.inputs.emplace_back();
    added.type = text_of(input, "type");
    const Json& shape = member(input, "shape");
    if (!shape.is_array())
      throw std::invalid_argument("\"graph\": the shape of an input is no list");
    for (const Json& size : shape)
      added.shape.push_back(whole(size, "\"graph\": the shape of an input", -1));
  }
  for (const Json& name : operators) {
    if (!name.is_string()) throw std::invalid_argument("\"graph\": an operator is no text");
    graph.operators.insert(name.get<std::string>());
  }
  return graph;
}

// "bytes" and "crc32" of an entry of "files", or of "content".
void read_checksum(const Json& entry, FileFacts& result) {
  if (!to_integer(member(entry, "bytes"), result.bytes) || result.bytes < 0)
    throw std::invalid_argument("\"bytes\" of a file: expected a whole number");
  const std::string digits = text_of(entry, "crc32");
  const char* end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, result.crc32, 16);
  if (digits.size() != 8 || read.ec != std::errc() || read.ptr != end)
    throw std::invalid_argument("\"crc32\" of a file: expected eight hexadecimal digits");
}

// "files": what export.py wrote.
std::vector<FileFacts> read_files(const Json& value, const fs::path& folder) {
  if (!value.is_array()) throw std::invalid_argument("\"files\": expected a list");
  std::vector<FileFacts> files;
  for (const Json& entry : value) {
    FileFacts& added = files.emplace_back();
    added.file = folder / text_of(entry, "file");
    read_checksum(entry, added);
  }
  return files;
}

// "memory": what export.py expects recognition to take.
MemoryForecast read_memory(const Json& value) {
  const auto number = [&value](const char* key) {
    const Json& found = member(value, key);
    const double bytes = found.is_number() ? found.get<double>() : -1;
    if (!(bytes > 0 && bytes < 1e18))
      throw std::invalid_argument("\"memory\": " + json_text(key) + ": expected a positive number");
    return bytes;
  };
  return {number("fixed_bytes"), number("bytes_per_frame")};
}

std::string hexadecimal(std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", static_cast<unsigned>(value));
  return text;
}

// Throws UsageError where the model in a file is not the one that its description was added to: a
// network with damaged weights would run, and give wrong texts.
void check_model_content(const FileFacts& described) {
  const auto bytes = static_cast<std::int64_t>(size_of_model(described.file));
  const std::string file = described.file.string();
  std::string found, expected;
  if (bytes < described.bytes) {
    found = std::to_string(bytes) + " bytes";
    expected = "at least " + std::to_string(described.bytes) + " bytes";
  } else {
    const auto crc32 = crc32_of(described.file, static_cast<std::uint64_t>(described.bytes));
    if (crc32 == described.crc32) return;
    found = "its model has the checksum " + hexadecimal(crc32);
    expected = "the checksum " + hexadecimal(described.crc32);
  }
  throw UsageError(file + ": " + found + ", but its description is of a model with " + expected +
                   ": it is damaged, or was changed after the export; copy it anew, or export the "
                   "model anew");
}

// Throws UsageError where a file is not the described one. On a card it may have been replaced by
// what MindSpore Lite's converter made of it: returns a note then, else an empty string.
std::string check_content(const FileFacts& described, const fs::path& description, bool ascend) {
  std::string found, expected;
  try {
    const auto bytes = static_cast<std::int64_t>(bytes_of(described.file));
    if (bytes != described.bytes) {
      found = std::to_string(bytes) + " bytes";
      expected = std::to_string(described.bytes) + " bytes";
    } else if (const std::uint32_t crc32 = crc32_of(described.file); crc32 != described.crc32) {
      found = "checksum " + hexadecimal(crc32);
      expected = "checksum " + hexadecimal(described.crc32);
    } else {
      return "";
    }
  } catch (const InputError& error) {
    throw UsageError(std::string(error.what()) + ", and " + description.string() +
                     " describes it; copy all files of the export");
  }
  if (ascend)
    return described.file.string() + " is not the file that " + description.filename().string() +
           " describes; it should be what converter_lite made of that one";
  throw UsageError(described.file.string() + ": " + found + ", but " + description.string() +
                   " describes a file of " + expected +
                   ": one of the two is of another export; copy both from the same export, or "
                   "export the model anew");
}

// NAME.json, or what else the description of a model may be called; see `read_description`.
fs::path find_description(const fs::path& model) {
  constexpr std::string_view kGraph = "_graph", kOnnx = ".onnx";
  const auto without = [](const std::string& text, std::string_view end) {
    const bool there =
        text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
    return there ? text.substr(0, text.size() - end.size()) : text;
  };
  const fs::path folder = model.parent_path();
  const std::string stem = model.stem().string();
  const std::string plain = without(without(stem, kGraph), kOffline);
  std::vector<std::string> names{stem, plain, plain + ".onnx", without(plain, kOnnx)};
  if (model.extension() == ".onnx") names.insert(names.begin(), stem + ".onnx");
  for (const std::string& name : names)
    if (const fs::path path = folder / (name + ".json"); fs::exists(path)) return path;
  return folder / (stem + ".json");
}

}  // namespace

Description parse_description(std::string_view text, const fs::path& folder) {
  const Json root = parse_json(text);
  if (!root.is_object()) throw std::invalid_argument("expected an object");
  Description result;
  Bucket only;
  result.model = text_of(root, "model");
  result.device = text_of(root, "device");
  result.vocabulary = read_labels(root);
  result.labels = static_cast<std::int64_t>(result.vocabulary.labels.size());
  read_inputs(root, result, only);
  read_features(root, result);
  if (const Json* stride = find_member(root, "frame_stride"); stride != nullptr)
    result.frame_stride = whole(*stride, "\"frame_stride\"", 1) * result.hop;

  if (const Json* files = find_member(root, "files"); files != nullptr)
    result.files = read_files(*files, folder);
  if (const Json* content = find_member(root, "content"); content != nullptr)
    read_checksum(*content, result.content.emplace());
  if (const Json* memory = find_member(root, "memory"); memory != nullptr && !memory->is_null())
    result.memory = read_memory(*memory);

  if (const Json* listed = find_member(root, "buckets"); listed != nullptr) {
    if (!listed->is_array() || listed->empty())
      throw std::invalid_argument("\"buckets\": expected a list of at least one");
    for (const Json& bucket : *listed) {
      result.buckets.push_back({folder / text_of(bucket, "file"),
                                axis(member(bucket, "batch_size"), "\"batch_size\""),
                                axis(member(bucket, "frames"), "\"frames\"")});
      if (const Json* graph = find_member(bucket, "graph"); graph != nullptr)
        result.buckets.back().graph = read_graph(*graph);
    }
  } else {
    only.file = folder / text_of(root, "file");
    result.buckets.push_back(only);
  }
  if (result.takes_samples && result.frame_seconds == 0)
    throw std::invalid_argument("has no \"sample_rate\" and \"window_stride\" of its features");
  std::sort(result.buckets.begin(), result.buckets.end(), shorter);
  return result;
}

bool Description::trims_silence() const {
  if (!takes_samples || features == nullptr) return false;
  const Json* trims = find_member(*features, "trim_silence");
  return trims != nullptr && *trims == true;
}

Description embedded_description(std::string_view text, const fs::path& model) {
  Description result;
  try {
    result = parse_description(text, model.parent_path());
  } catch (const std::invalid_argument& error) {
    throw UsageError(model.string() +
                     ": the description inside it is not one that export.py wrote (" +
                     error.what() + ")");
  }
  if (result.buckets.size() != 1)
    throw UsageError(model.string() + ": the description inside it names " +
                     std::to_string(result.buckets.size()) + " files, expected this one");
  result.path = model;
  result.buckets.front().file = model;
  result.files.clear();  // of the moment before the description was put into the file
  if (result.content) result.content->file = model;
  return result;
}

Description read_description(const fs::path& model) {
  fs::path path = model;
  if (model.extension() != ".json") {
    path = find_description(model);
    if (!fs::exists(path) && fs::exists(model))
      throw UsageError(model.string() + ": has no description" +
                       (model.extension() == ".onnx" ? " inside, nor " : " ") +
                       path.filename().string() + " beside it; export.py writes one, copy it too");
  }
  Description result;
  try {
    result = parse_description(read_text(path), path.parent_path());
  } catch (const std::invalid_argument& error) {
    throw UsageError(path.string() + ": not a description that export.py wrote (" + error.what() +
                     ")");
  } catch (const std::runtime_error& error) {
    throw UsageError(std::string("the model's description cannot be read: ") + error.what());
  }
  result.path = path;
  bool named = model == path;
  for (Bucket& bucket : result.buckets) {
    bucket.file = graph_file(bucket.file);
    named = named || bucket.file.lexically_normal() == graph_file(model).lexically_normal();
  }
  // The name of a description with buckets may be the name of no model file.
  const fs::path given = graph_file(model);
  if (!named && result.buckets.size() == 1 && fs::exists(given)) {
    Bucket& only = result.buckets.front();
    only.converted = is_offline(given) ||
                     (only.file.extension() == ".onnx" && given.extension() != ".onnx");
    for (FileFacts& file : result.files)  // else it is a copy under another name
      if (file.file.lexically_normal() == only.file.lexically_normal()) file.file = given;
    only.file = given;
  }
  if (!named && result.buckets.size() > 1 && fs::exists(given))
    throw UsageError(model.string() + ": is none of the models that " + path.string() +
                     " names; give that description instead");
  return result;
}

std::vector<std::string> check_models(const Description& description, const std::string& target) {
  const std::string again = "; export it with --device_target " + target;
  const std::string name = description.path.filename().string();
  const bool ascend = target == "Ascend";
  const bool fits = description.device == "any" || (description.device == "Ascend") == ascend;
  if (!fits)
    throw UsageError(description.path.string() + ": was made for " + description.device +
                     ", not for " + target + again);
  bool unknown = false;
  for (const Bucket& bucket : description.buckets) {
    if (bucket.file.extension() == ".onnx" && ascend)
      throw UsageError(bucket.file.string() +
                       ": an ONNX file runs on Ascend after MindSpore Lite's converter_lite "
                       "(--fmk=ONNX) has made a .mindir of it; give that one");
    const auto bytes = size_of_model(bucket.file);
    if (bucket.file.extension() != ".mindir" || bucket.converted) continue;
    unknown = unknown || !bucket.graph;
    if (!bucket.graph) continue;
    const bool same = static_cast<std::uintmax_t>(bucket.graph->bytes) == bytes;
    if (!same && ascend) continue;  // MindSpore Lite's converter may have replaced it
    if (!same)
      throw UsageError(bucket.file.string() + ": " + std::to_string(bytes) + " bytes, and " + name +
                       " describes a file of " + std::to_string(bucket.graph->bytes) +
                       "; export both anew");
    check_graph(description, bucket, ascend, again);
  }
  std::vector<std::string> notes;
  if (unknown)
    notes.push_back(name +
                    " is of an earlier export.py: the operators and shapes of its models are "
                    "checked by MindSpore alone; export the model anew to have them checked first");
  const auto foreign = [](const Bucket& bucket) {
    return bucket.converted || bucket.file.extension() == ".ms";
  };
  if (std::any_of(description.buckets.begin(), description.buckets.end(), foreign)) return notes;
  if (description.content) check_model_content(*description.content);
  for (const FileFacts& file : description.files)
    if (std::string note = check_content(file, description.path, ascend); !note.empty())
      notes.push_back(std::move(note));
  return notes;
}

}  // namespace speech::internal
