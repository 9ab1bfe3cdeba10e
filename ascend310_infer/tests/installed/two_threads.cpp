// two_threads MODEL RECORDING...: two threads start at the same time, each with a recognizer of its
// own, and print "THREAD TAB TEXT" for every recording.

#include <speech/recognizer.h>

#include <atomic>
#include <exception>
#include <iostream>
#include <string>
#include <thread>

int main(int argc, char** argv) {
  std::atomic<int> ready{0};
  std::atomic<bool> failed{false};
  const auto work = [&](const std::string& name) {
    ++ready;
    while (ready < 2) std::this_thread::yield();
    try {
      const speech::Recognizer recognizer(argv[1]);
      for (int i = 2; i < argc; ++i) {
        const auto transcript = recognizer.transcribe(speech::read_audio(argv[i]));
        std::cout << name + "\t" + transcript.text + "\n";
      }
    } catch (const std::exception& error) {
      std::cerr << std::string("error: ") + error.what() + "\n";
      failed = true;
    }
  };
  std::thread first(work, "first"), second(work, "second");
  first.join();
  second.join();
  return failed ? 1 : 0;
}
