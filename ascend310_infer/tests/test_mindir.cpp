#include "check.h"
#include "errors.h"
#include "mindir.h"
#include "samples.h"

using infer::Mindir;
using infer::parse_mindir;

TEST(mindir_says_inputs_and_operators) {
  const Mindir model = parse_mindir(samples::mindir(-1, 161, 500, "LSTM"));
  CHECK(model.producer_version == "2.10.0");
  CHECK(model.inputs.size() == 2);
  CHECK((model.inputs[0].shape == std::vector<std::int64_t>{-1, 161, 500}));
  CHECK(model.inputs[0].name == "features" && model.inputs[0].type == infer::kMindirFloat32);
  CHECK((model.inputs[1].shape == std::vector<std::int64_t>{-1}));
  CHECK(model.inputs[1].type == infer::kMindirInt32);
  CHECK((model.operators == std::set<std::string>{"LSTM", "Transpose"}));
}

TEST(mindir_finds_operators_among_functions_and_primitives) {
  using samples::bytes;
  const std::string node = bytes(1, bytes(4, "REF::LSTM:290"));
  const std::string inner = bytes(1, bytes(4, "DynamicRNN"));
  const Mindir model = parse_mindir(bytes(7, node) + bytes(8, inner) +
                                    bytes(12, bytes(1, "LSTM:290") + bytes(2, "LSTM")));
  CHECK((model.operators == std::set<std::string>{"DynamicRNN", "LSTM"}));
}

TEST(mindir_reads_packed_dimensions) {
  using samples::bytes;
  const std::string tensor = bytes(1, samples::varint(3) + samples::varint(300));
  const Mindir model =
      parse_mindir(bytes(7, bytes(1, bytes(4, "Add")) + bytes(5, bytes(2, tensor))));
  CHECK((model.inputs[0].shape == std::vector<std::int64_t>{3, 300}));
}

TEST(mindir_refuses_other_bytes) {
  using Bad = std::invalid_argument;
  const std::string whole = samples::mindir(1, 4, 8);
  CHECK_THROWS(Bad, "in the middle", parse_mindir(whole.substr(0, whole.size() - 1)));
  CHECK_THROWS(Bad, "no graph", parse_mindir(""));
  CHECK_THROWS(Bad, "no graph", parse_mindir(samples::bytes(2, "pytorch")));
  CHECK_THROWS(Bad, "unknown kind", parse_mindir("\x0F"));
  CHECK_THROWS(Bad, "without a number", parse_mindir(std::string_view("\x02\x00", 2)));
  CHECK_THROWS(Bad, "without an end", parse_mindir(std::string(20, '\xFF')));
  CHECK_THROWS(Bad, "", parse_mindir("PK\x03\x04 a zip file, such as PyTorch writes"));
}

TEST(mindir_files_that_cannot_be_read) {
  const samples::Folder folder;
  using infer::UsageError;
  CHECK_THROWS(UsageError, "No such file", infer::read_mindir(folder.path / "none.mindir"));
  CHECK_THROWS(UsageError, "not a MindIR file", infer::read_mindir(folder.path));
  samples::write(folder.path / "empty.mindir", std::string());
  CHECK_THROWS(UsageError, "not a MindIR file", infer::read_mindir(folder.path / "empty.mindir"));
}
