"""The nodes as saved workflows know them."""

# Node id -> ({input: (type, default)}, [outputs]). A change here breaks workflows that people have saved.
SIGNATURES = {
    "ConsisIDModelLoader": ({"model_name": ("COMBO", None), "weight_dtype": ("COMBO", "default")}, ["MODEL"]),
    "ConsisIDVAELoader": ({"vae_name": ("COMBO", None)}, ["VAE"]),
    "ConsisIDTextEncoderLoader": ({"text_encoder_name": ("COMBO", None)}, ["CLIP"]),
    "ConsisIDFaceModelsLoader": (
        {
            "insightface_pack": ("COMBO", None),
            "face_parsing": ("COMBO", None),
            "eva_clip": ("COMBO", None),
            "provider": ("COMBO", "auto"),
        },
        ["CONSISID_FACE_MODELS"],
    ),
    "ConsisIDLoraLoader": (
        {"model": ("MODEL", None), "lora_name": ("COMBO", None), "strength": ("FLOAT", 1.0)},
        ["MODEL"],
    ),
    "ConsisIDFaceAnalyzer": (
        {
            "face_models": ("CONSISID_FACE_MODELS", None),
            "image": ("IMAGE", None),
            "selection": ("COMBO", "largest"),
            "face_index": ("INT", 0),
            "background": ("COMBO", "remove"),
        },
        ["CONSISID_FACE", "IMAGE", "IMAGE"],
    ),
    "ConsisIDGlobalIDExtractor": (
        {
            "face": ("CONSISID_FACE", None),
            "vae": ("VAE", None),
            "width": ("INT", 720),
            "height": ("INT", 480),
            "length": ("INT", 49),
            "fit": ("COMBO", "stretch"),
            "keypoints": ("BOOLEAN", False),
            "noise_augmentation": ("FLOAT", 0.0),
        },
        ["CONSISID_GLOBAL_ID"],
    ),
    "ConsisIDLocalIDExtractor": (
        {
            "model": ("MODEL", None),
            "face_models": ("CONSISID_FACE_MODELS", None),
            "face": ("CONSISID_FACE", None),
        },
        ["CONSISID_LOCAL_ID"],
    ),
    "ConsisIDSaveIdentity": ({"face": ("CONSISID_FACE", None), "name": ("STRING", "identity")}, ["STRING"]),
    "ConsisIDLoadIdentity": ({"identity": ("COMBO", None)}, ["CONSISID_FACE", "IMAGE"]),
    "ConsisIDBlendLocalID": (
        {
            "local_id_1": ("CONSISID_LOCAL_ID", None),
            "local_id_2": ("CONSISID_LOCAL_ID", None),
            "ratio": ("FLOAT", 0.5),
        },
        ["CONSISID_LOCAL_ID"],
    ),
    "ConsisIDConditioning": (
        {
            "positive": ("CONDITIONING", None),
            "negative": ("CONDITIONING", None),
            "global_id": ("CONSISID_GLOBAL_ID", None),
            "local_id": ("CONSISID_LOCAL_ID", None),
            "global_strength": ("FLOAT", 1.0),
            "local_strength": ("FLOAT", 1.0),
            "start_percent": ("FLOAT", 0.0),
            "end_percent": ("FLOAT", 1.0),
            "batch_size": ("INT", 1),
            "start_block": ("INT", 0),
            "end_block": ("INT", 999),
        },
        ["CONDITIONING", "CONDITIONING", "LATENT"],
    ),
    "ConsisIDSampler": (
        {
            "model": ("MODEL", None),
            "positive": ("CONDITIONING", None),
            "negative": ("CONDITIONING", None),
            "latent_image": ("LATENT", None),
            "seed": ("INT", 0),
            "steps": ("INT", 50),
            "cfg": ("FLOAT", 6.0),
            "sampler": ("COMBO", "dpm"),
            "guidance": ("COMBO", "constant"),
            "denoise": ("FLOAT", 1.0),
            "guidance_start": ("FLOAT", 0.0),
            "guidance_end": ("FLOAT", 1.0),
        },
        ["LATENT"],
    ),
    "ConsisIDStepCache": (
        {
            "model": ("MODEL", None),
            "threshold": ("FLOAT", 0.1),
            "start_percent": ("FLOAT", 0.0),
            "end_percent": ("FLOAT", 1.0),
        },
        ["MODEL"],
    ),
    "ConsisIDEvaluationModelsLoader": (
        {
            "insightface_pack": ("COMBO", None),
            "curricular_face": ("COMBO", "none"),
            "inception": ("COMBO", "none"),
            "clip": ("COMBO", "none"),
            "provider": ("COMBO", "auto"),
        },
        ["CONSISID_EVALUATION_MODELS"],
    ),
    "ConsisIDIdentityScore": (
        {
            "evaluation_models": ("CONSISID_EVALUATION_MODELS", None),
            "video": ("IMAGE", None),
            "reference": ("CONSISID_FACE,IMAGE", None),
            "protocol": ("COMBO", "strict"),
            "plot_theme": ("COMBO", "dark"),
        },
        ["FLOAT", "STRING", "IMAGE"],
    ),
    "ConsisIDTextScore": (
        {
            "evaluation_models": ("CONSISID_EVALUATION_MODELS", None),
            "video": ("IMAGE", None),
            "prompt": ("STRING", None),
            "protocol": ("COMBO", "strict"),
        },
        ["FLOAT", "STRING"],
    ),
    "ConsisIDFrequencySpectrum": (
        {
            "images": ("IMAGE", None),
            "reference": ("IMAGE", None),
            "evaluation_models": ("CONSISID_EVALUATION_MODELS", None),
            "plot_theme": ("COMBO", "dark"),
        },
        ["IMAGE", "IMAGE"],
    ),
    "ConsisIDCompareVideos": (
        {
            "evaluation_models": ("CONSISID_EVALUATION_MODELS", None),
            "reference": ("CONSISID_FACE,IMAGE", None),
            "video_1": ("IMAGE", None),
            "video_2": ("IMAGE", None),
            "video_3": ("IMAGE", None),
            "video_4": ("IMAGE", None),
            "video_5": ("IMAGE", None),
            "video_6": ("IMAGE", None),
            "names": ("STRING", ""),
            "prompt": ("STRING", ""),
            "protocol": ("COMBO", "strict"),
            "plot_theme": ("COMBO", "dark"),
        },
        ["IMAGE", "STRING"],
    ),
    "ConsisIDIdentityEffect": (
        {
            "model": ("MODEL", None),
            "positive": ("CONDITIONING", None),
            "negative": ("CONDITIONING", None),
            "latent_image": ("LATENT", None),
            "seed": ("INT", 0),
            "steps": ("INT", 50),
            "cfg": ("FLOAT", 6.0),
            "sampler": ("COMBO", "dpm"),
            "guidance": ("COMBO", "constant"),
            "denoise": ("FLOAT", 1.0),
            "plot_theme": ("COMBO", "dark"),
        },
        ["LATENT", "IMAGE"],
    ),
}
NODE_IDS = list(SIGNATURES)


def sockets(schema):
    """The inputs of a schema as a graph may have them: of a growing input, those that it may grow."""
    return [socket for i in schema.inputs for socket in (i.template.get_all() if hasattr(i, "template") else [i])]
