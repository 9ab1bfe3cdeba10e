// Features of recordings, for tests. Standard input: description, recording, and output, which is
// float32 (bin, frame), a word each; standard output: a line each, frames and start in seconds, or
// why not.

#include <iostream>

#include "description.h"
#include "errors.h"
#include "recordings.h"

int main() {
  for (std::string description, recording, output;
       std::cin >> description >> recording >> output;) {
    const infer::Recordings found =
        infer::open_recordings({recording}, infer::read_description(description));
    for (const infer::Refused& refused : found.listing.bad) std::cout << refused.reason << "\n";
    for (const infer::Utterance& utterance : found.listing.good) try {
        const std::vector<float> features = found.source->features(utterance);
        infer::write_atomically(output, features.data(), features.size() * sizeof(float));
        std::cout << utterance.frames << " " << utterance.start_s << "\n";
      } catch (const infer::InputError& error) {
        std::cout << error.what() << "\n";
      }
  }
}
