{{/* What the pods of servers, hooks and tests share. */}}

{{/* Settings of a container: (list $ NAME). */}}
{{- define "conclave.container" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
image: {{ include "conclave.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
{{- end }}

{{/* Where pods run, and as whom. */}}
{{- define "conclave.podCommon" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- /* Variables of services begin with CONCLAVE_, too, and a server refuses those it does not know. */}}
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Variables by which `conclave` in a pod of this release finds and trusts the servers: (list $ ENDPOINTS). */}}
{{- define "conclave.clientEnv" -}}
{{- $root := index . 0 -}}
- name: CONCLAVE_ENDPOINTS
  value: {{ index . 1 | quote }}
{{- if ne $root.Values.tls.mode "disabled" }}
- name: CONCLAVE_CA
  value: /etc/conclave/tls/ca.crt
- name: CONCLAVE_CERT
  value: /etc/conclave/tls/tls.crt
- name: CONCLAVE_KEY
  value: /etc/conclave/tls/tls.key
{{- end }}
{{- end }}

{{- define "conclave.tlsVolume" -}}
- name: tls
  secret:
    secretName: {{ include "conclave.tlsSecret" . }}
    # Group-readable, as servers are not root: the group is fsGroup.
    defaultMode: 0440
{{- end }}

{{- define "conclave.tlsMount" -}}
- name: tls
  mountPath: /etc/conclave/tls
  readOnly: true
{{- end }}
