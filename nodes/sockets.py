"""ConsisID's own socket types."""

from comfy_api.latest import io

ConsisIDFaceModels = io.Custom("CONSISID_FACE_MODELS")
ConsisIDFace = io.Custom("CONSISID_FACE")
ConsisIDGlobalID = io.Custom("CONSISID_GLOBAL_ID")
ConsisIDLocalID = io.Custom("CONSISID_LOCAL_ID")
ConsisIDEvaluationModels = io.Custom("CONSISID_EVALUATION_MODELS")
