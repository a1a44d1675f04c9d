// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// A bundle's model through ONNX Runtime's C++ API, version 1.12 or newer, on the CPU.
#include <onnxruntime_cxx_api.h>

#include <memory>

#include "program.hpp"

namespace {

class Classifier {
  public:
    Classifier(const Contract& contract, int threads)
        : contract_(contract),
          environment_(ORT_LOGGING_LEVEL_ERROR, "classify"),
          session_(environment_, (contract.folder + contract.model).c_str(), options_of(threads)) {}

    std::vector<float> operator()(Tensor& tensor) {
        const char* inputs[] = {contract_.input_name.c_str()};
        const char* outputs[] = {contract_.output_name.c_str()};
        const Ort::Value image = value_of(tensor);
        auto answers = session_.Run(Ort::RunOptions{nullptr}, inputs, &image, 1, outputs, 1);
        const auto shape = answers[0].GetTensorTypeAndShapeInfo().GetShape();
        const float* logits = answers[0].GetTensorData<float>();
        return {logits, logits + shape.back()};
    }

  private:
    static Ort::SessionOptions options_of(int threads) {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads);
        options.SetInterOpNumThreads(1);
        return options;
    }

    // The value borrows the tensor's memory.
    Ort::Value value_of(Tensor& tensor) const {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto& shape = tensor.shape;
        if (contract_.bytes)
            return Ort::Value::CreateTensor<std::uint8_t>(memory, tensor.bytes.data(), tensor.bytes.size(), shape.data(),
                                                          shape.size());
        return Ort::Value::CreateTensor<float>(memory, tensor.floats.data(), tensor.floats.size(), shape.data(), shape.size());
    }

    Contract contract_;
    Ort::Env environment_;
    Ort::Session session_;
};

}  // namespace

int main(int argc, char** argv) {
    return run(argc, argv, "onnxruntime", [](const Contract& contract, int threads) -> Answer {
        const auto classifier = std::make_shared<Classifier>(contract, threads);
        return [classifier](Tensor& tensor) { return (*classifier)(tensor); };
    });
}
