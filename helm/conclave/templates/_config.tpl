{{/* The servers' configuration, and what it must not be. */}}

{{/* Servers that founded the cluster: as told, or as the cluster remembers, or as many as now. */}}
{{- define "conclave.initialReplicas" -}}
{{- $initial := .Values.initialReplicas | default 0 | int -}}
{{- if not $initial -}}
  {{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "conclave.fullname" .) -}}
  {{- if $there -}}
    {{- $initial = dig "metadata" "annotations" "conclave/initial-replicas" "0" $there | int -}}
  {{- end -}}
{{- end -}}
{{- $initial | default .Values.replicas | int -}}
{{- end }}

{{- define "conclave.encrypted" -}}
{{ ne .Values.tls.mode "disabled" }}
{{- end }}

{{/* A TOML value. Helm reads all numbers as floats, and toToml would write 20 as 20.0. */}}
{{- define "conclave.toml" -}}
{{- if kindIs "string" . }}{{ . | toJson }}{{ else if kindIs "bool" . }}{{ . }}{{ else }}{{ int64 . }}{{ end -}}
{{- end }}

{{- define "conclave.config" -}}
{{- $root := . -}}
{{- $config := .Values.config -}}
cluster = {{ include "conclave.clusterName" . | quote }}
data_dir = "/var/lib/conclave/data"
listen_client = "0.0.0.0:7401"
listen_peer = "0.0.0.0:7402"
listen_http = "0.0.0.0:7481"
threads = {{ int64 $config.threads }}
# Read only by a server whose disk is empty: those that founded the cluster.
members = [
{{- range $n := until (include "conclave.initialReplicas" . | int) }}
  { id = {{ add1 $n }}, address = "{{ include "conclave.fullname" $root }}-{{ $n }}.{{ include "conclave.peerDomain" $root }}:7402", client_address = "{{ include "conclave.fullname" $root }}-{{ $n }}.{{ include "conclave.peerDomain" $root }}:7401" },
{{- end }}
]
{{- range $section := list "log" "raft" "limits" "session" }}
{{- with index $config $section }}

[{{ $section }}]
{{- range $key, $value := . }}
{{ $key }} = {{ include "conclave.toml" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- if ne .Values.tls.mode "disabled" }}

[tls]
cert_file = "/etc/conclave/tls/tls.crt"
key_file = "/etc/conclave/tls/tls.key"
ca_file = "/etc/conclave/tls/ca.crt"
http = {{ .Values.tls.http }}
reload_every = {{ .Values.tls.reloadEvery | quote }}
{{- end }}

[auth]
mode = {{ .Values.auth.mode | quote }}
{{- if include "conclave.authSecret" . }}
token_file = "/etc/conclave/auth/tokens"
{{- end }}
{{ end }}

{{/* What the schema cannot say, in a sentence each. */}}
{{- define "conclave.check" -}}
{{- $values := .Values -}}
{{- $replicas := int $values.replicas -}}
{{- if eq (mod $replicas 2) 0 -}}
{{- fail (printf "replicas is %d: an even number of servers survives no more failures than one server less; use 1, 3 or 5" $replicas) -}}
{{- end -}}
{{- $initial := int ($values.initialReplicas | default 0) -}}
{{- if and $initial (eq (mod $initial 2) 0) -}}
{{- fail (printf "initialReplicas is %d: a cluster is founded by 1, 3 or 5 servers" $initial) -}}
{{- end -}}
{{- if and (not $values.persistence.enabled) (gt $replicas 1) -}}
{{- fail (printf "persistence.enabled is false with %d replicas: a server that comes back without its disk has forgotten its votes, so acknowledged writes would be lost; use persistence, or replicas: 1 for a trial" $replicas) -}}
{{- end -}}
{{- if and (eq $values.tls.mode "existingSecret") (not $values.tls.existingSecret) -}}
{{- fail "tls.mode is existingSecret: name the Secret with tls.crt, tls.key and ca.crt in tls.existingSecret" -}}
{{- end -}}
{{- if and $values.tls.existingSecret (ne $values.tls.mode "existingSecret") -}}
{{- fail (printf "tls.existingSecret is %s, but tls.mode is %s: it is used in the mode existingSecret only" $values.tls.existingSecret $values.tls.mode) -}}
{{- end -}}
{{- if and (eq $values.tls.mode "certManager") (not $values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.mode is certManager: name the issuer in tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and (eq $values.tls.mode "disabled") $values.tls.http -}}
{{- fail "tls.http is true, but tls.mode is disabled: choose a mode, or leave the HTTP port plain" -}}
{{- end -}}
{{- if and (eq $values.auth.mode "required") (eq $values.tls.mode "disabled") -}}
{{- fail "auth.mode is required, but tls.mode is disabled: certificates need TLS, and tokens are not accepted in plain text, so nobody could come in" -}}
{{- end -}}
{{- if and $values.auth.existingSecret $values.auth.tokens -}}
{{- fail "auth.existingSecret and auth.tokens are both set: use one of them" -}}
{{- end -}}
{{- if and (ne $values.service.type "ClusterIP") (eq $values.tls.mode "disabled") -}}
{{- fail (printf "service.type is %s with tls.mode disabled: that would offer plain text beyond the cluster; choose a mode of TLS" $values.service.type) -}}
{{- end -}}
{{- if and $values.service.nodePort (eq $values.service.type "ClusterIP") -}}
{{- fail "service.nodePort needs service.type NodePort or LoadBalancer" -}}
{{- end -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "conclave.fullname" .) -}}
{{- if and $there (gt $replicas 1) (ne $values.updateStrategy.type "OnDelete") -}}
{{- $was := dig "metadata" "annotations" "conclave/encrypted" "" $there -}}
{{- if and $was (ne $was (include "conclave.encrypted" .)) -}}
{{- fail (printf "tls.mode would turn TLS %s for a running cluster: servers speak one or the other, so they must not be replaced one by one; set updateStrategy.type to OnDelete, upgrade, and delete all pods at once" (eq $was "true" | ternary "off" "on")) -}}
{{- end -}}
{{- end -}}
{{- if gt (len (include "conclave.clusterName" .)) 64 -}}
{{- fail "clusterName has more than 64 bytes" -}}
{{- end -}}
{{- end }}
