"""What the rules cannot know: values of single configurations, main classes, absences."""

from __future__ import annotations

from typing import Any

from transformers import ResNetConfig

__all__ = ["ABSENT", "CONFIG", "MAIN"]

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE = {**_ROPE, "mrope_section": [2, 1, 1]}
_SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2],
           "num_time_features": 2}  # fmt: skip
_RESNET = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
    out_features=["stage2", "stage3", "stage4"],
)  # fmt: skip
_RESNET_LAST = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
    out_features=["stage4"],
)  # fmt: skip
_DETR = {"use_timm_backbone": False, "backbone": None, "backbone_config": _RESNET_LAST}
_WIDE = {"hidden_size": 64, "num_attention_heads": 4}

# By configuration class; ``...`` leaves a field at the class's own default.
CONFIG: dict[str, dict[str, Any]] = {
    "AutoformerConfig": _SERIES | {"label_length": 4, "moving_average": 3},
    "InformerConfig": _SERIES,
    "TimeSeriesTransformerConfig": _SERIES,
    "BambaConfig": {"attn_layer_indices": [1]},
    "BitConfig": {"num_groups": 2},
    "BridgeTowerConfig": {
        **_WIDE,
        "text_config": _WIDE,
        "vision_config": {"hidden_size": 64},
    },
    "BrosConfig": _WIDE,
    "ChameleonConfig": {"vocabulary_map": {"<image>": 63}},
    "CohereCompassTextConfig": {
        "rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _MROPE)
    },
    "ConditionalDetrConfig": _DETR,
    "DabDetrConfig": _DETR,
    "DetrConfig": _DETR,
    "TableTransformerConfig": _DETR,
    "DeformableDetrConfig": _DETR | {"backbone_config": _RESNET},
    "OmDetTurboConfig": _DETR | {"backbone_config": _RESNET},
    "CvtConfig": {"depth": [1, 2, 3]},
    "DbrxConfig": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8, "kv_n_heads": 2}},
    "DeepseekOcr2Config": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2}
    },
    "DeepseekV2Config": {"num_experts_per_tok": 2},
    "DiffusionGemmaConfig": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
    },
    "Dots1Config": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "Dots3NoteConfig": {"text_config": {"per_layer_config": None, "head_dim": 16}},
    "EsmConfig": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"]},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"]},
    "LiltConfig": {"hidden_size": 48, "num_attention_heads": 4},
    "LayoutLMv3Config": {"coordinate_size": 6, "shape_size": 4, "input_size": 32, "patch_size": 8},
    "Mamba2Config": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "MoonshineStreamingConfig": {"num_key_value_heads": 4},
    "NemotronConfig": {"num_key_value_heads": 2, "head_dim": 8},
    "PaliGemmaConfig": {"text_config": {"num_key_value_heads": 1}},
    "ReformerConfig": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [4, 8]},
    "Mistral4Config": {"rope_parameters": ...},
    "Mistral4TextConfig": {"rope_parameters": ...},
    "GroundingDinoConfig": {"num_queries": 4},
    "MMGroundingDinoConfig": {"num_queries": 4},
    "FunAsrNanoConfig": {"adaptor_config": {"intermediate_size": 8}},
    "PocketTTSConfig": {"flow_head_config": {"condition_dim": 32}},
    "GradiumPhononTTSConfig": {"flow_head_config": {"condition_dim": 32}},
    "NemotronH_Omni_Config": {"vision_config": {"video_temporal_patch_size": 2}},
    "Gemma4AssistantConfig": {"text_config": {"hidden_size_per_layer_input": 0}},
    "Gemma3nConfig": {"text_config": {"intermediate_size": 48}},
    "PerceiverConfig": {"num_latents": 8, "d_latents": 32, "d_model": 32, "num_blocks": 1,
                        "num_self_attends_per_block": 2, "num_self_attention_heads": 4,
                        "num_cross_attention_heads": 4, "qk_channels": 32, "v_channels": 32},
    "TvpConfig": {"visual_prompt_size": 4, "max_img_size": 32, "num_frames": 2},
    "LwDetrViTConfig": {"num_windows": 4},
    "EfficientLoFTRConfig": {"stage_num_blocks": [1, 1, 1], "out_features": [8, 16, 32],
                             "stage_stride": [2, 1, 2], "num_attention_layers": 2},
    "EomtConfig": {"num_blocks": 1},
    "EomtDinov3Config": {"num_blocks": 1},
    "Ernie4_5_VLMoeTextConfig": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "Ernie4_5_VL_MoeTextConfig": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "NemotronHConfig": {"n_groups": 2, "mamba_num_heads": 4, "mamba_head_dim": 16},
    "Qwen4ExpTextConfig": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
                           "indexer_budget": 8, "indexer_compress_ratio": 2},
    "HGNetV2Config": {"stem_channels": [3, 16, 16], "stage_in_channels": [16, 32, 32, 32],
                      "stage_mid_channels": [16] * 4, "stage_out_channels": [32] * 4,
                      "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4},
    "Sam2HieraDetConfig": {"image_size": [64, 64], "blocks_per_stage": [1, 1, 1, 1],
                           "embed_dim_per_stage": [32] * 4,
                           "num_attention_heads_per_stage": [4] * 4,
                           "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [2]},
    "Sam2VisionConfig": {"backbone_channel_list": [32] * 4,
                         "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "Kosmos2Config": {"latent_query_num": 4},
    "DonutSwinConfig": {"depths": [1, 1], "num_heads": [4, 4]},
    "NeuCodecConfig": {"quantization_dim": 64},
    "Xcodec2Config": {"quantization_dim": 64},
    "ShieldGemma2Config": {"yes_token_index": 5, "no_token_index": 6},
    "AriaConfig": {"projector_patch_to_query_dict": {"16": 4}},
    "Gemma3Config": {"mm_tokens_per_image": 4},
    "LlavaNextConfig": {"image_grid_pinpoints": [[32, 32]]},
    "LlavaNextVideoConfig": {"image_grid_pinpoints": [[32, 32]]},
    "LlavaOnevisionConfig": {"image_grid_pinpoints": [[32, 32]]},
    "Llama4VisionConfig": {"intermediate_size": 128, "projector_input_dim": 32,
                           "projector_output_dim": 32, "vision_output_dim": 32},
    "VipLlavaConfig": {"vision_feature_layers": [-2, -1]},
    "GlmAsrEncoderConfig": {"intermediate_size": 128},
    "AudioFlamingo3EncoderConfig": {"intermediate_size": 128},
    "XmodConfig": {"default_language": "en_XX"},
    "ZambaConfig": {"num_hidden_layers": 4,
                    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "SegGptConfig": {"image_size": [64, 32]},
    "SuperPointConfig": {"descriptor_decoder_dim": 32},
    "SuperGlueConfig": {"keypoint_encoder_sizes": [16, 32], "gnn_layers_types": ["self", "cross"]},
    "VitMatteConfig": {"fusion_hidden_sizes": [32, 32, 32, 32],
                       "convstream_hidden_sizes": [8, 8, 8],
                       "backbone_config": {"image_size": 64, "patch_size": 16}},
    "EfficientNetConfig": {"width_coefficient": 0.25, "depth_coefficient": 0.1,
                           "hidden_dim": 320},
    "MimiConfig": {"upsample_groups": 32},
}  # fmt: skip
MAIN: dict[str, tuple[str, ...]] = {
    "pp_ocrv6_small_rec": ("PPOCRV6SmallRecForTextRecognition",),
}
_SESSION = "its forward takes a session that holds a whole video, not tensors"
ABSENT: dict[str, str] = {
    "auto": "the file maps configurations to the models of other files",
    "edgetam_video": _SESSION,
    "sam2_video": _SESSION,
    "sam3_tracker_video": _SESSION,
    "sam3_video": _SESSION,
}
