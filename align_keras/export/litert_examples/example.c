/* Embeds one image or one text with a LiteRT file. The program needs only C and LiteRT.
 *
 *   example image.tflite image.ppm
 *   example text.tflite 101 2417 4418 102
 *
 * The image must be a PPM file with the preprocessing that metadata.json describes. With
 * image_size = 160 and resize_to = 192, for example, ImageMagick writes it by
 *
 *   magick image.jpg -filter Triangle -resize 192x192! -gravity center \
 *     -crop 160x160+0+0 +repage -depth 8 image.ppm
 *
 * A file that was exported with --resizable accepts an image of any size. The numbers
 * after text.tflite are token ids, zero-based line numbers in vocabulary.txt.
 *
 * The program prints the embedding with one number per line. The dot product of two
 * embeddings is their cosine similarity. To build the program, link it with the LiteRT
 * library, which is part of the Python package ai-edge-litert and of the Android library
 * com.google.ai.edge.litert:
 *
 *   cc example.c -o example -L FOLDER -l:libLiteRt.so -Wl,-rpath,FOLDER
 *
 * This command prints FOLDER for the Python package:
 *
 *   python -c "import ai_edge_litert as a; print(*a.__path__)"
 *
 * The program declares the functions of the C API of LiteRT 2 that it calls. If you have
 * the headers of LiteRT (litert/c/litert_*.h), include them instead.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtSignatureT* LiteRtSignature;
typedef struct LiteRtTensorT* LiteRtTensor;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT* LiteRtTensorBufferRequirements;
typedef size_t LiteRtParamIndex;
enum { kLiteRtStatusOk = 0, kLiteRtHwAcceleratorCpu = 1 };
enum { kLiteRtLockRead = 0, kLiteRtLockWrite = 1 };
enum { kLiteRtElementTypeFloat32 = 1, kLiteRtElementTypeInt32 = 2 };
typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} LiteRtLayout;
typedef struct {
  int element_type;
  LiteRtLayout layout;
} LiteRtRankedTensorType;

int LiteRtCreateEnvironment(int, const void*, LiteRtEnvironment*);
int LiteRtCreateModelFromFile(LiteRtEnvironment, const char*, LiteRtModel*);
int LiteRtCreateOptions(LiteRtOptions*);
int LiteRtSetOptionsHardwareAccelerators(LiteRtOptions, int);
int LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions,
                              LiteRtCompiledModel*);
int LiteRtGetModelSignature(LiteRtModel, LiteRtParamIndex, LiteRtSignature*);
int LiteRtGetNumSignatureInputs(LiteRtSignature, LiteRtParamIndex*);
int LiteRtGetSignatureInputName(LiteRtSignature, LiteRtParamIndex, const char**);
int LiteRtGetSignatureInputTensorByIndex(LiteRtSignature, LiteRtParamIndex,
                                         LiteRtTensor*);
int LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature, LiteRtParamIndex,
                                          LiteRtTensor*);
int LiteRtGetRankedTensorType(LiteRtTensor, LiteRtRankedTensorType*);
int LiteRtCompiledModelResizeInputTensor(LiteRtCompiledModel, LiteRtParamIndex,
                                         LiteRtParamIndex, const int*, size_t);
int LiteRtGetCompiledModelOutputTensorLayouts(LiteRtCompiledModel, LiteRtParamIndex,
                                              size_t, LiteRtLayout*, bool);
int LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel,
                                                  LiteRtParamIndex, LiteRtParamIndex,
                                                  LiteRtTensorBufferRequirements*);
int LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel,
                                                   LiteRtParamIndex, LiteRtParamIndex,
                                                   LiteRtTensorBufferRequirements*);
int LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment,
                                                    const LiteRtRankedTensorType*,
                                                    LiteRtTensorBufferRequirements,
                                                    LiteRtTensorBuffer*);
int LiteRtLockTensorBuffer(LiteRtTensorBuffer, void**, int);
int LiteRtUnlockTensorBuffer(LiteRtTensorBuffer);
int LiteRtRunCompiledModel(LiteRtCompiledModel, LiteRtParamIndex, size_t,
                           LiteRtTensorBuffer*, size_t, LiteRtTensorBuffer*);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel);
void LiteRtDestroyOptions(LiteRtOptions);
void LiteRtDestroyModel(LiteRtModel);
void LiteRtDestroyEnvironment(LiteRtEnvironment);

static void fail(const char* message) {
  fprintf(stderr, "example: error: %s\n", message);
  exit(1);
}

/* Exits with the message if a call of LiteRT failed. */
static void check(int status, const char* message) {
  if (status != kLiteRtStatusOk) fail(message);
}

/* Opens a PPM file with three bytes per pixel and reads its header.
 *
 * A height or width of -1 stands for any size, and is set to the size of the image. */
static FILE* open_image(const char* path, int32_t* height, int32_t* width) {
  FILE* file = fopen(path, "rb");
  int columns, rows, max_value;
  if (!file) fail("Cannot open the image. Check the path.");
  if (fscanf(file, "P6 %d %d %d", &columns, &rows, &max_value) != 3 ||
      max_value != 255 || columns < 1 || rows < 1)
    fail("The image must be a PPM file (P6) with one byte per channel and no comments.");
  if (*height < 0) *height = rows;
  if (*width < 0) *width = columns;
  if (columns != *width || rows != *height) {
    fprintf(stderr,
            "example: error: The image must have %d x %d pixels. Received: %d x %d.\n",
            (int)*width, (int)*height, columns, rows);
    exit(1);
  }
  fgetc(file); /* Skips the white space between the header and the pixels. */
  return file;
}

/* Reads the RGB values of `count` pixels as floats from 0 to 255. */
static void read_pixels(FILE* file, long count, float* pixels) {
  for (long i = 0; i < 3 * count; i++) {
    int byte = fgetc(file);
    if (byte == EOF) fail("The image file is truncated.");
    pixels[i] = (float)byte;
  }
  fclose(file);
}

/* Writes `count` token ids, or a mask of ones for them. */
static void fill_tokens(char** ids, int count, bool is_mask, int32_t* row) {
  for (int i = 0; i < count; i++) row[i] = is_mask ? 1 : (int32_t)atol(ids[i]);
}

int main(int argc, char** argv) {
  if (argc < 3) fail("Usage: example TOWER.tflite IMAGE.ppm | TOKEN_ID...");
  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  LiteRtSignature signature;
  check(LiteRtCreateEnvironment(0, NULL, &environment), "Cannot start LiteRT.");
  check(LiteRtCreateModelFromFile(environment, argv[1], &model),
        "Cannot read the file as a LiteRT model.");
  check(LiteRtCreateOptions(&options), "Cannot create the options.");
  check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu),
        "Cannot select the CPU.");
  check(LiteRtCreateCompiledModel(environment, model, options, &compiled),
        "Cannot compile the model.");
  check(LiteRtGetModelSignature(model, 0, &signature), "The model has no signature.");

  LiteRtTensorBuffer inputs[2], output;
  LiteRtTensorBufferRequirements requirements;
  LiteRtRankedTensorType type;
  LiteRtTensor tensor;
  LiteRtParamIndex count;
  void* memory;
  check(LiteRtGetNumSignatureInputs(signature, &count), "The signature has no inputs.");
  if (count > 2) fail("The file must be a tower that align-keras exported.");
  for (LiteRtParamIndex i = 0; i < count; i++) {
    const char* name;
    check(LiteRtGetSignatureInputName(signature, i, &name), "An input has no name.");
    check(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor), name);
    check(LiteRtGetRankedTensorType(tensor, &type), name);
    int32_t* shape = type.layout.dimensions;
    const bool is_open = shape[0] < 0;
    const bool is_image =
        type.element_type == kLiteRtElementTypeFloat32 && type.layout.rank == 4;
    if (!is_image &&
        (type.element_type != kLiteRtElementTypeInt32 || type.layout.rank != 2))
      fail("The file must be a tower that align-keras exported.");
    if (is_open) shape[0] = 1;
    if (!is_image) shape[1] = argc - 2;
    FILE* image = is_image ? open_image(argv[2], &shape[1], &shape[2]) : NULL;
    if (is_open)
      check(LiteRtCompiledModelResizeInputTensor(compiled, 0, i, shape,
                                                 type.layout.rank),
            name);
    check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, i, &requirements),
          name);
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type,
                                                          requirements, &inputs[i]),
          name);
    check(LiteRtLockTensorBuffer(inputs[i], &memory, kLiteRtLockWrite), name);
    if (is_image)
      read_pixels(image, (long)shape[1] * shape[2], memory);
    else
      fill_tokens(argv + 2, argc - 2, name[0] == 'p', memory);
    check(LiteRtUnlockTensorBuffer(inputs[i]), name);
  }
  const char* output_failure = "Cannot prepare the output.";
  check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensor), output_failure);
  check(LiteRtGetRankedTensorType(tensor, &type), output_failure);
  check(LiteRtGetCompiledModelOutputTensorLayouts(compiled, 0, 1, &type.layout, true),
        "The input does not fit. A text has at most as many token ids as the sequence "
        "length in metadata.json.");
  check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements),
        output_failure);
  check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type,
                                                        requirements, &output),
        output_failure);
  check(LiteRtRunCompiledModel(compiled, 0, count, inputs, 1, &output),
        "Cannot run the model.");

  check(LiteRtLockTensorBuffer(output, &memory, kLiteRtLockRead), output_failure);
  for (int i = 0; i < type.layout.dimensions[1]; i++)
    printf("%.9g\n", ((const float*)memory)[i]);
  check(LiteRtUnlockTensorBuffer(output), output_failure);

  for (LiteRtParamIndex i = 0; i < count; i++) LiteRtDestroyTensorBuffer(inputs[i]);
  LiteRtDestroyTensorBuffer(output);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
