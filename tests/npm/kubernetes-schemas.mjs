// Holds the manifests on standard input against the schemas of Kubernetes' own API.
import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";

for (const document of parseAllDocuments(readFileSync(0, "utf8"))) {
  const manifest = document.toJS();
  const { [manifest.kind]: Model } = await import(`kubernetes-models/${manifest.apiVersion}`);
  new Model(manifest).validate();
  console.log(`${manifest.apiVersion} ${manifest.kind} ${manifest.metadata.name}`);
}
