{{/* Names and labels. */}}

{{- define "conclave.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* 40 characters leave room for "-headless", an ordinal, and the revision hash that Kubernetes puts into a label. */}}
{{- define "conclave.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "conclave.headless" -}}
{{ include "conclave.fullname" . }}-headless
{{- end }}

{{- define "conclave.clusterName" -}}
{{- .Values.clusterName | default (include "conclave.fullname" .) -}}
{{- end }}

{{- define "conclave.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "conclave.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/* What selects the pods of one component, and never changes: (list $ "server"). */}}
{{- define "conclave.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "conclave.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object: (list $ "server"). */}}
{{- define "conclave.labels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "conclave.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: conclave
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels of a pod: without the chart's version, which is no reason to restart a server. (list $ "server"). */}}
{{- define "conclave.podLabels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "conclave.selector" . }}
app.kubernetes.io/part-of: conclave
{{- end }}

{{/* metadata of an object: (list $ NAME COMPONENT ANNOTATIONS LABELS); the last two may be left out. */}}
{{- define "conclave.metadata" -}}
{{- $root := index . 0 -}}
{{- $annotations := dict -}}
{{- if gt (len .) 3 }}{{ $annotations = merge (dict) (index . 3 | default dict) }}{{ end -}}
{{- $annotations = merge $annotations ($root.Values.commonAnnotations | default dict) -}}
name: {{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- $labels := include "conclave.labels" (list $root (index . 2)) | fromYaml }}
  {{- if gt (len .) 4 }}{{ $labels = merge $labels (index . 4 | default dict) }}{{ end }}
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "conclave.image" -}}
{{- $image := .Values.image -}}
{{- $name := printf "%s%s" (empty $image.registry | ternary "" (printf "%s/" $image.registry)) $image.repository -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* DNS name of the headless service, under which every server has a name of its own. */}}
{{- define "conclave.peerDomain" -}}
{{ include "conclave.headless" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "conclave.scheme" -}}
{{ eq .Values.tls.mode "disabled" | ternary "http" "https" }}
{{- end }}

{{/* The client addresses of so many servers, for `conclave`: (list $ NUMBER). */}}
{{- define "conclave.endpoints" -}}
{{- $root := index . 0 -}}
{{- $list := list -}}
{{- range $n := until (int (index . 1)) -}}
{{- $list = append $list (printf "%s://%s-%d.%s:7401" (include "conclave.scheme" $root) (include "conclave.fullname" $root) $n (include "conclave.peerDomain" $root)) -}}
{{- end -}}
{{- join "," $list -}}
{{- end }}

{{/* The clients' service, for `conclave`. */}}
{{- define "conclave.serviceEndpoint" -}}
{{ include "conclave.scheme" . }}://{{ include "conclave.fullname" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:{{ int .Values.service.port }}
{{- end }}

{{- define "conclave.tlsSecret" -}}
{{- if eq .Values.tls.mode "existingSecret" -}}
{{ .Values.tls.existingSecret }}
{{- else -}}
{{ include "conclave.fullname" . }}-tls
{{- end -}}
{{- end }}

{{/* The names a certificate of the servers needs, as a list in JSON. Seven servers' names from the beginning: more servers
must not need another certificate. */}}
{{- define "conclave.tlsNames" -}}
{{- $full := include "conclave.fullname" . -}}
{{- $service := printf "%s.%s" $full .Release.Namespace -}}
{{- $names := list (printf "%s.svc.%s" $service .Values.clusterDomain) (printf "%s.svc" $service) $service $full -}}
{{- $domain := include "conclave.peerDomain" . -}}
{{- range $n := until 7 -}}
{{- $names = append $names (printf "%s-%d.%s" $full $n $domain) -}}
{{- end -}}
{{- $names = append $names "localhost" -}}
{{- range .Values.tls.extraNames }}{{ $names = append $names . }}{{ end -}}
{{- $names | toJson -}}
{{- end }}

{{- define "conclave.authSecret" -}}
{{- if .Values.auth.existingSecret -}}
{{ .Values.auth.existingSecret }}
{{- else if .Values.auth.tokens -}}
{{ include "conclave.fullname" . }}-tokens
{{- end -}}
{{- end }}

{{- define "conclave.authKey" -}}
{{ .Values.auth.existingSecret | empty | ternary "tokens" .Values.auth.secretKey }}
{{- end }}
