"""Makes tests/golden/jobset_schema.json: what may be in a JobSet, as JSON Schema.

    pip install kubeflow-trainer-api==2.3.0 && python tests/launch/make_jobset_schema.py

That package (Apache-2.0, the Kubeflow authors) is generated from the OpenAPI of Kubernetes and of JobSet v1alpha2, of
which it has the names, types and required fields. Enumerations, of which it has none, are JobSet's own, from its
config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml, and those of a Job's failure policy, from Kubernetes' API.
Texts are left out, and kinds of volumes, affinities, probes and hooks that launch/ doesn't use; no object takes a field
that isn't named.
"""

import json
from pathlib import Path

from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

VOLUMES = ("configMap", "emptyDir", "hostPath", "name", "persistentVolumeClaim", "secret")
UNUSED = ("affinity", "ephemeralContainers", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
ENUMERATIONS = {
    ("FailurePolicyRule", "action"): ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"],
    ("FailurePolicy", "restartStrategy"): ["Recreate", "BlockingRecreate"],
    ("PodFailurePolicyRule", "action"): ["FailJob", "FailIndex", "Ignore", "Count"],
    ("PodFailurePolicyOnExitCodesRequirement", "operator"): ["In", "NotIn"],
    ("JobSpec", "completionMode"): ["NonIndexed", "Indexed"],
    ("PodSpec", "restartPolicy"): ["Always", "OnFailure", "Never"],
    ("JobSet", "apiVersion"): ["jobset.x-k8s.io/v1alpha2"],
    ("JobSet", "kind"): ["JobSet"],
}


def short(name: str) -> str:
    """JobsetV1alpha2Network -> Network, IoK8sApiCoreV1Container -> Container."""
    for prefix in ("JobsetV1alpha2", "IoK8sApiBatchV1", "IoK8sApiCoreV1", "IoK8sApimachineryPkgApisMetaV1"):
        name = name.removeprefix(prefix)
    return {"IoK8sApimachineryPkgApiResourceQuantity": "Quantity"}.get(name, name)


def plain(node):
    """A schema without what explains it, and without the null that pydantic allows for what is left out."""
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": f"#/$defs/{short(node['$ref'].rpartition('/')[2])}"}
    if "anyOf" in node and {"type": "null"} in node["anyOf"]:
        choices = [plain(choice) for choice in node["anyOf"] if choice != {"type": "null"}]
        return choices[0] if len(choices) == 1 else {"anyOf": choices}
    kept = {key: plain(value) for key, value in node.items() if key not in ("description", "title", "default")}
    if "properties" in node:
        kept["properties"] = {name: plain(value) for name, value in node["properties"].items() if name not in UNUSED}
        kept["additionalProperties"] = False
    return kept


def reached(schema: dict, definitions: dict, names: set) -> set:
    """The names of all definitions that a schema leads to."""
    text = json.dumps(schema)
    for name in definitions:
        if name not in names and f'"#/$defs/{name}"' in text:
            names = reached(definitions[name], definitions, names | {name})
    return names


whole = JobsetV1alpha2JobSet.model_json_schema()
definitions = {short(name): plain(schema) for name, schema in whole.pop("$defs").items()}
definitions["Quantity"] = {"type": ["string", "number"]}
volumes = definitions["Volume"]["properties"]
definitions["Volume"]["properties"] = {name: volumes[name] for name in VOLUMES}
root = plain(whole)
for written_by_the_cluster in (root, definitions["PersistentVolumeClaim"]):
    del written_by_the_cluster["properties"]["status"]
for (name, field), values in ENUMERATIONS.items():
    (root if name == "JobSet" else definitions[name])["properties"][field]["enum"] = values
root["required"] = ["apiVersion", "kind", "metadata", "spec"]
schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$comment": "JobSet v1alpha2; Apache-2.0, the Kubernetes and Kubeflow authors; see make_jobset_schema.py",
    **root,
    "$defs": {name: definitions[name] for name in sorted(reached(root, definitions, set()))},
}
path = Path(__file__).parent.parent / "golden" / "jobset_schema.json"
path.write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True).replace('},"', '},\n"') + "\n")
