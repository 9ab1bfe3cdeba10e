/** @file
 *  Speech recognition with a model that export.py wrote, for C and for languages that call C.
 *
 *  The same as speech/recognizer.h, which says more about models, engines and recordings. Functions
 *  that fail return NULL, and speech_last_error() then tells why, in one line. No C++ exception
 *  leaves a function. Texts are UTF-8.
 *
 *  @code
 *  speech_recognizer *recognizer = speech_recognizer_create("deepspeech2.onnx", NULL);
 *  speech_result *result = recognizer == NULL
 *      ? NULL : speech_recognizer_transcribe(recognizer, samples, count, 16000);
 *  puts(result != NULL ? speech_result_text(result) : speech_last_error());
 *  speech_result_destroy(result);
 *  speech_recognizer_destroy(recognizer);
 *  @endcode
 */
#ifndef SPEECH_RECOGNIZER_C_H
#define SPEECH_RECOGNIZER_C_H

#include <stddef.h>
#include <stdint.h>

#define SPEECH_C_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/** A model, ready to recognize speech. Several threads may use one at once. */
typedef struct speech_recognizer speech_recognizer;

/** What was recognized in one recording. */
typedef struct speech_result speech_result;

/** How a model is run. Zeros, or NULL in the place of the options, are the defaults. */
typedef struct speech_options {
  const char* engine; /**< "openvino", "lite" or "wheel"; NULL: the first that runs the model */
  int threads;        /**< on a CPU; 0: the engine's choice */
  int64_t max_frames; /**< splits longer recordings, where the model takes any; 0: never */
} speech_options;

/** A recognized word. */
typedef struct speech_word {
  const char* text;  /**< valid until the result is destroyed */
  double start, end; /**< s, from the start of the recording; NaN if the model does not tell */
  double confidence; /**< mean probability of its labels, 0 to 1 */
} speech_word;

/** Loads a model.
 *
 *  @param model NAME.onnx, or NAME.mindir with the description NAME.json beside it.
 *  @param options How to run it; NULL: the defaults.
 *  @returns The recognizer, for speech_recognizer_destroy(); NULL if it cannot be used. */
SPEECH_C_API speech_recognizer* speech_recognizer_create(const char* model,
                                                         const speech_options* options);

/** Frees a recognizer. Its results stay valid.
 *
 *  @param recognizer May be NULL. */
SPEECH_C_API void speech_recognizer_destroy(speech_recognizer* recognizer);

/** The sample rate that a model was trained with.
 *
 *  @returns Hz; 0 if it takes features alone. */
SPEECH_C_API int64_t speech_recognizer_sample_rate(const speech_recognizer* recognizer);

/** Recognizes one recording.
 *
 *  @param samples One channel, full scale -1 to 1.
 *  @param count Number of samples.
 *  @param sample_rate 100 Hz to 10 MHz; another rate than the model's is resampled.
 *  @returns The result, for speech_result_destroy(); NULL if it cannot be recognized. */
SPEECH_C_API speech_result* speech_recognizer_transcribe(const speech_recognizer* recognizer,
                                                         const float* samples, size_t count,
                                                         int64_t sample_rate);

/** Recognizes one recording in a file: WAV, FLAC, Ogg, MP3 and others.
 *
 *  @param path The file.
 *  @returns The result, for speech_result_destroy(); NULL if it cannot be read or recognized. */
SPEECH_C_API speech_result* speech_recognizer_transcribe_file(const speech_recognizer* recognizer,
                                                              const char* path);

/** The text; empty if nothing was recognized. Valid until the result is destroyed. */
SPEECH_C_API const char* speech_result_text(const speech_result* result);

/** Mean probability of all labels, 0 to 1; NaN if nothing was recognized. */
SPEECH_C_API double speech_result_confidence(const speech_result* result);

/** Number of words. */
SPEECH_C_API size_t speech_result_word_count(const speech_result* result);

/** A word.
 *
 *  @param index From 0 to one less than the number of words; beyond, the text is NULL. */
SPEECH_C_API speech_word speech_result_word(const speech_result* result, size_t index);

/** Frees a result.
 *
 *  @param result May be NULL. */
SPEECH_C_API void speech_result_destroy(speech_result* result);

/** A recording that is recognized while it is made. One thread at a time may use it. */
typedef struct speech_stream speech_stream;

/** Loads a model for streams.
 *
 *  @param model ONNX file of export.py --streaming.
 *  @param pause Seconds without a letter, after which a text is final; 0: 0.8.
 *  @returns The stream, for speech_stream_destroy(); NULL if the model cannot be used. */
SPEECH_C_API speech_stream* speech_stream_create(const char* model, double pause);

/** Frees a stream. Its results stay valid.
 *
 *  @param stream May be NULL. */
SPEECH_C_API void speech_stream_destroy(speech_stream* stream);

/** The sample rate of the model, in Hz. */
SPEECH_C_API int64_t speech_stream_sample_rate(const speech_stream* stream);

/** Takes the next samples of the recording.
 *
 *  @param samples One channel at the model's rate, full scale -1 to 1.
 *  @param count Number of samples.
 *  @returns How many texts wait for speech_stream_next(); -1 if it fails. */
SPEECH_C_API int64_t speech_stream_accept(speech_stream* stream, const float* samples,
                                          size_t count);

/** Ends the recording; the next samples are of another one.
 *
 *  @returns How many texts wait for speech_stream_next(); -1 if it fails. */
SPEECH_C_API int64_t speech_stream_finish(speech_stream* stream);

/** The next text that a pause has made final.
 *
 *  @returns The result, for speech_result_destroy(); NULL if none waits. */
SPEECH_C_API speech_result* speech_stream_next(speech_stream* stream);

/** The text since the last pause, which may change. Valid until the stream is used again. */
SPEECH_C_API const char* speech_stream_partial(speech_stream* stream);

/** Why the last function that failed in this thread did, in one line; empty if none did. */
SPEECH_C_API const char* speech_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* SPEECH_RECOGNIZER_C_H */
