{{- define "tracked-queue.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "tracked-queue.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What every pod knows: where Redis is, and under which prefix. */}}
{{- define "tracked-queue.env" -}}
- name: TRACKED_QUEUE_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.secret | quote }}, key: {{ .Values.redis.key | quote }}}}
- name: TRACKED_QUEUE_NAMESPACE
  value: {{ .Values.namespace | quote }}
{{- end -}}

{{- define "tracked-queue.pod" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{ end -}}
{{- with .Values.serviceAccountName -}}
serviceAccountName: {{ . | quote }}
{{ end -}}
automountServiceAccountToken: {{ .Values.automountServiceAccountToken }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp  # where a worker's signs of life and its last events are
    emptyDir: {}
{{- end -}}

{{- define "tracked-queue.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | replace ":sha256:" "@sha256:" | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end -}}
