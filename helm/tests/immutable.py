"""What Kubernetes lets nobody change on an object that exists: Service, StatefulSet, Job, PersistentVolumeClaim, Secret.

From its API documentation; the stand-in for the API server refuses updates by the same function.
"""

# A StatefulSet's spec may change in these fields only (validation of apps/v1, since 1.27; 1.25 knows all but ordinals).
STATEFUL_SET_MAY = {
    "replicas", "ordinals", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
    "revisionHistoryLimit",
}


def changes(old: dict, new: dict) -> list[str]:
    """The immutable fields that differ, as paths."""
    kind, before, after = new["kind"], old.get("spec", {}), new.get("spec", {})
    if kind == "StatefulSet":
        keys = (set(before) | set(after)) - STATEFUL_SET_MAY
        return [f"spec.{key}" for key in sorted(keys) if before.get(key) != after.get(key)]
    if kind == "Job":
        return [f"spec.{key}" for key in ("selector", "template", "completionMode") if before.get(key) != after.get(key)]
    if kind == "Service":
        headless = [spec.get("clusterIP") == "None" for spec in (before, after)]
        return ["spec.clusterIP"] if headless[0] != headless[1] else []
    if kind == "RoleBinding":
        return ["roleRef"] if old.get("roleRef") != new.get("roleRef") else []
    if kind in ("Secret", "ConfigMap") and old.get("immutable"):
        return ["data"] if old.get("data") != new.get("data") else []
    if kind == "Secret":
        return ["type"] if old.get("type", "Opaque") != new.get("type", "Opaque") else []
    return []
